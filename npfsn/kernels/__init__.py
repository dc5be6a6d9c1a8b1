"""All jitted code, and in `cpu` and `tables` what it shares with the rest of the package.

What is kept of it on disk is for these files (see `npfsn.machine_code`).
"""
