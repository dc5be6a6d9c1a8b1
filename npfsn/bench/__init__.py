"""`npfsn bench`: measure what one step costs on this machine, and compare it with the limit.

`measure.py` collects the figures: `steps.py` times whole steps, `profile.py` breaks a step down by
kernel, `limits.py` estimates the least time it could take, `start.py` times a fresh process, and
`machine.py` describes the machine. `page.py` and `picture.py` present them.
"""

#: Length of each signal, s: in general, and with `quick`, which only shows that everything works.
SECONDS, QUICK_SECONDS = 10.0, 0.5
