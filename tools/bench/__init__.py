"""npfsn beside its peers on one machine: ``python -m tools.bench`` measures and renders the page.

Every contender computes the same network from the same weights, with one thread. They take turns in
short rounds of one run, so that other load on the machine affects them all alike.
"""
