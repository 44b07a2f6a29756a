"""Log-likelihoods that compute a shared beginning once: for all its continuations and all steering configurations."""
