"""`npfsn bench`: what one step costs on this machine, and how far that is from what is possible.

`measure.py` collects the figures: `steps.py` times whole steps, `profile.py` says where the time of
a step goes, `limits.py` what it could be, `start.py` how long a fresh process takes, `machine.py`
what all of this is measured on. `page.py` and `picture.py` show them.
"""

#: Length of each signal, and of one that shows no more than that everything works, s.
SECONDS, QUICK_SECONDS = 10.0, 0.5
