"""Models: loading, LoRA, quantization, chat templates, adapter files."""
