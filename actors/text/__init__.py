"""Text to token ids and back: tokenizer, chat template, incremental detokenization, stop strings.

Nothing here keeps time or opens sockets; of ours only messages are imported, and never torch.
"""
