"""From files to requests: source -> `prepare` -> Prompt -> (`hard_enough`, `hold_out`) -> `encode_all` -> EncodedPrompt ->
`PromptStream` -> Request.

    tokenizer = ChatTokenizer.load("Qwen/Qwen3-4B")
    source = prepare("deepmath.parquet", data_dir, domain="math")          # built once, array_record on disk
    encoded, report = encode_all(source, tokenizer, suffix, max_prompt_tokens=2048)
    stream = PromptStream({"math": encoded}, prompts_per_step=1024, samples_per_prompt=1, max_response_tokens=16384, seed=0)
    requests = next(stream)                                                # the rollout engine takes it from here

Knows nothing of models, teachers or rewards; TFDS and grain do the storing and the shuffling, without TensorFlow.
"""
