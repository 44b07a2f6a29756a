"""Log-likelihoods that compute a shared prefix once for all its continuations and all steering configurations."""
