"""All jitted code. The cache of each file looks at all of them (see `npfsn.jit`)."""
