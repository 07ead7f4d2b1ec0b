"""Bad tokenizers, chat templates and stop ids in a model folder."""

from pathlib import Path

from bad_models import generate, student
from cases import case, cut, edit, model, write

NO_TOKENIZER = (
    "no tokenizer at 'student': this folder holds no tokenizer that transformers can load"
)


def template(folder: Path, text: str) -> None:
    path = model(folder)
    edit(path / "tokenizer_config.json", chat_template=text)
    if (path / "chat_template.jinja").exists():
        write(path / "chat_template.jinja", text)


@case("train", "tokenizer.json cut short", NO_TOKENIZER)
def tokenizer_halved(folder):
    cut(model(folder) / "tokenizer.json")
    return student(folder)


@case("train", "tokenizer.json that is an empty object", NO_TOKENIZER)
def tokenizer_empty(folder):
    write(model(folder) / "tokenizer.json", "{}")
    return student(folder)


@case("train", "tokenizer.json of an unknown kind", NO_TOKENIZER)
def tokenizer_kind(folder):
    path = model(folder) / "tokenizer.json"
    edit(path, model={"type": "Nonsense", "vocab": {}})
    return student(folder)


@case("train", "tokenizer.json missing", NO_TOKENIZER)
def tokenizer_missing(folder):
    path = model(folder)
    (path / "tokenizer.json").unlink()
    return student(folder)


@case("train", "tokenizer_config.json cut short", NO_TOKENIZER)
def tokenizer_config_halved(folder):
    cut(model(folder) / "tokenizer_config.json")
    return student(folder)


@case("train", "tokenizer_config.json that is a list", NO_TOKENIZER)
def tokenizer_config_list(folder):
    write(model(folder) / "tokenizer_config.json", "[]")
    return student(folder)


@case(
    "train",
    "chat template with a Jinja syntax error",
    "the chat template of 'student' refuses ",
    "unexpected '}'",
)
def template_syntax(folder):
    template(folder, "{% for m in messages %}{{ m.content }")
    return student(folder)


@case(
    "train",
    "chat template that refuses the prompt",
    "the chat template of 'student' refuses ",
    "no system message",
)
def template_refuses(folder):
    template(folder, "{{ raise_exception('no system message') }}")
    return student(folder)


@case(
    "train",
    "chat template that calls what is not there",
    "the chat template of 'student' refuses ",
    "'dict object' has no attribute 'nothing'",
)
def template_undefined(folder):
    template(folder, "{{ messages[0].nothing.more }}")
    return student(folder)


@case("train", "chat template that divides by zero", "the chat template of 'student' refuses ")
def template_python_error(folder):
    template(folder, "{{ 1 // 0 }}")
    return student(folder)


@case(
    "train",
    "chat template that is a number",
    "the chat template of 'student' is 3: expected a text",
)
def template_number(folder):
    path = model(folder)
    (path / "chat_template.jinja").unlink(missing_ok=True)
    edit(path / "tokenizer_config.json", chat_template=3)
    return student(folder)


@case(
    "generate",
    "chat template with a Jinja syntax error",
    "prompt 'line-1': the chat template of 'student' refuses ",
    "unexpected '}'",
)
def model_template_syntax(folder):
    template(folder, "{% for m in messages %}{{ m.content }")
    return generate(folder)


@case(
    "generate",
    "chat template that writes nothing",
    (
        "prompt 'line-1': the chat template of 'student' drops messages[0].content of role "
        "user='1+1': expected a template that renders it"
    ),
)
def template_empty(folder):
    template(folder, "{{ '' }}")
    return generate(folder)


@case(
    "generate",
    "chat template that divides by zero",
    "prompt 'line-1': the chat template of 'student' refuses ",
)
def model_template_python_error(folder):
    template(folder, "{{ 1 // 0 }}")
    return generate(folder)


@case(
    "train",
    "generation_config.json cut short",
    "student/generation_config.json is damaged: expected a JSON object",
)
def generation_halved(folder):
    cut(model(folder) / "generation_config.json")
    return student(folder)


@case(
    "train",
    "generation_config.json that is a list",
    "student/generation_config.json is damaged: expected a JSON object, not '[]'",
)
def generation_list(folder):
    write(model(folder) / "generation_config.json", "[]")
    return student(folder)


@case(
    "train",
    "generation_config.json whose stop id is a text",
    (
        "eos_token_id in generation_config.json of 'student' must be an id or a list of "
        "ids, not '<|end|>': expected ids as the tokenizer numbers them"
    ),
)
def generation_text(folder):
    edit(model(folder) / "generation_config.json", eos_token_id="<|end|>")
    return student(folder)


@case(
    "train",
    "generation_config.json whose stop id is outside the vocabulary",
    "stop ids [151645] of 'student' are outside its vocabulary of 102 ids: expected ids",
)
def generation_outside(folder):
    edit(model(folder) / "generation_config.json", eos_token_id=[2, 151645])
    return student(folder)
