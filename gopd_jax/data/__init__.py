"""From files to requests.

A source of prompts becomes requests for the rollout engine in these steps:

    sources   a file, folder, pattern, hub data set or "tiny:NAME/SPLIT" -> local files
    rows      files -> checked rows; `formats` and `code_formats` know the published data sets,
              `conversations` messages, tools and keyword arguments of the template
    datasets  rows -> prompts on disk, prepared once and read by index
    select    prompts -> those that are hard enough, split into training and test prompts
    encode    prompts -> token ids, without prompts that are too long; `teacher_prompts` adds what
              only a teacher reads, `answers` encodes the responses of a data set;
              `template_check` refuses a chat template that drops a part of a prompt
    stream    encoded prompts -> the requests of each step, without end, resumable

For example:

    tokenizer = ChatTokenizer.load("Qwen/Qwen3-4B")
    prompts = prepare("deepmath.parquet", data_dir, domain="math")
    encoded, report = encode_all(prompts, tokenizer, MATH_SUFFIX, max_prompt_tokens=2048)
    stream = PromptStream(
        {"math": encoded},
        prompts_per_step=1024,
        samples_per_prompt=1,
        max_response_tokens=16384,
        seed=0,
    )
    requests = next(stream)

The room does not know models or teachers. TFDS stores the prompts and grain shuffles them, both
without TensorFlow.
"""
