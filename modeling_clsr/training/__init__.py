"""Training with the Hugging Face Trainer: recipe in, checkpoint folder out."""
