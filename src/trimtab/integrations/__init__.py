"""Other people's loops: a callback for Lightning, in `.lightning`, and one for the Hugging Face Trainer.

Neither is imported by `trimtab` itself; each needs the package of its name.
"""
