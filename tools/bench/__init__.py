"""`engine-bench`: measures this engine, or any server that speaks OpenAI's completions."""
