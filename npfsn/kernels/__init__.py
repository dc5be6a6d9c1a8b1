"""All jitted code. No jitted call crosses a file (see `npfsn.jit`)."""
