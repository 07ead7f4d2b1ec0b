"""Teachers that read other prompts than the student, given wrongly."""

from bad_data import train
from cases import case, sums


@case(
    "train",
    "teacher_context with a field that no row has",
    "teacher_context='{solution}' does not fit prompt 'train/000000'",
)
def data_teacher_context(folder):
    option = "--config.domains.math.teacher_context={solution}"
    return [*train(folder, sums()), option]


@case(
    "train",
    "a teacher that is shown feedback where no answer is verified",
    "config.domains.math.teacher_context='{feedback}': expected no {feedback} where "
    "config.domains.math.reward='none'",
)
def data_feedback_without_a_verifier(folder):
    options = ["teacher_context={feedback}", "reward=none"]
    return [*train(folder, sums()), *(f"--config.domains.math.{o}" for o in options)]


@case(
    "train",
    "a row with a field that stands for what is said of the student's answer",
    "teacher_context='{feedback}': prompt 'train/000000' has a field 'feedback' of its own",
)
def data_feedback_of_the_row(folder):
    rows = [row | {"feedback": "good"} for row in sums()]
    return [*train(folder, rows), "--config.domains.math.teacher_context={feedback}"]


@case(
    "train",
    "a chat template of the teacher that is not there",
    "config.domains.math.teacher_template='chat.jinja': expected '', 'own' or a file with a Jinja "
    "template",
)
def data_teacher_template(folder):
    return [*train(folder, sums()), "--config.domains.math.teacher_template=chat.jinja"]


@case(
    "train",
    "a chat template of the teacher that drops the question",
    "prompt 'train/000000': the chat template of ",
    "drops messages[0].content of role user",
)
def data_teacher_template_that_drops(folder):
    (folder / "chat.jinja").write_text("<|assistant|>")
    option = f"--config.domains.math.teacher_template={folder / 'chat.jinja'}"
    return [*train(folder, sums()), option]


@case(
    "train",
    "a teacher that is shown more with method sft",
    "config.domains.math.teacher_context='{ground_truth}': expected none with method 'sft'",
)
def data_teacher_context_of_sft(folder):
    options = ["domains.math.teacher_context={ground_truth}", "method=sft"]
    return [*train(folder, sums()), *(f"--config.{o}" for o in options)]


@case(
    "train",
    "teacher_context with an unclosed brace",
    "teacher_context='{solution' does not fit prompt 'train/000000'",
)
def data_teacher_context_brace(folder):
    option = "--config.domains.math.teacher_context={solution"
    return [*train(folder, sums()), option]
