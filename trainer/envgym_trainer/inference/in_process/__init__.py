"""The in-process engine: scheduler, KV cache, forward pass and token sampling."""
