"""Request bodies into model inputs: texts, image sources and image bytes."""
