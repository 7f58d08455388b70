"""The drawn figures of the chapters, as SVG that is legible on light and dark pages and in print.

    python tests/figures.py        # writes chapters/figures/

Boxes have a light ground and dark letters of their own; what stands outside of them is grey.
"""

from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "chapters" / "figures"
INK, GREY, GROUND = "#1f2430", "#747b88", "#eef1f6"
BLUE, GREEN, ORANGE, YELLOW, PINK = "#cfe2f8", "#c9ecdf", "#fbdcc4", "#f8e6b8", "#f1d3e4"


def text(
    x: float, y: float, words: str, size: float = 14, colour: str = INK, at: str = "middle", **more
) -> str:
    extra = "".join(f' {k.replace("_", "-")}="{v}"' for k, v in more.items())
    place = f'x="{x}" y="{y}" font-size="{size}" fill="{colour}" text-anchor="{at}"'
    return f"<text {place}{extra}>{escape(words)}</text>"


def box(x: float, y: float, w: float, h: float, *lines: str, fill: str = GROUND, edge: str = GREY) -> str:
    """A box with lines of text in it, the first of them bold."""
    made = f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="8" fill="{fill}" stroke="{edge}"/>'
    top = y + h / 2 + 5 - 9 * (len(lines) - 1)
    for i, line in enumerate(lines):
        bold = {"font_weight": 600} if i == 0 else {}
        made += text(x + w / 2, top + 18 * i, line, 14 if i == 0 else 12, **bold)
    return made


def arrow(x: float, y: float, dx: float, dy: float = 0, words: str = "", colour: str = GREY) -> str:
    """An arrow with a word above it."""
    length = (dx * dx + dy * dy) ** 0.5
    ux, uy = dx / length, dy / length
    tip, left, right = (
        (x + dx, y + dy),
        (x + dx - 8 * ux + 5 * uy, y + dy - 8 * uy - 5 * ux),
        (x + dx - 8 * ux - 5 * uy, y + dy - 8 * uy + 5 * ux),
    )
    made = f'<path d="M{x} {y}L{tip[0]} {tip[1]}" stroke="{colour}" stroke-width="1.6" fill="none"/>'
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in (tip, left, right))
    made += f'<polygon points="{points}" fill="{colour}"/>'
    return made + (text(x + dx / 2, y + dy / 2 - 7, words, 12, colour) if words else "")


def around(path: str) -> str:
    """A dotted line past something."""
    return f'<path d="{path}" stroke="{GREY}" stroke-width="1.6" fill="none" stroke-dasharray="2 3"/>'


def svg(width: float, height: float, told: str, *parts: str) -> str:
    """A picture with what it shows in words, for those who do not see it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{escape(told)}" '
        f'font-family="system-ui, sans-serif"><title>{escape(told)}</title>{"".join(parts)}</svg>\n'
    )


# -- where we are -------------------------------------------------------------------------------------------
STAGES = (
    ("01", "text, tokens"),
    ("02", "base model"),
    ("03", "SFT"),
    ("04", "rankings"),
    ("05", "reward model"),
    ("06", "gradients"),
    ("07", "PPO"),
    ("08", "measure"),
    ("09", "chat"),
)


def where(chapter: str) -> str:
    """The stages of the course, with that of a chapter marked."""
    parts = []
    for i, (number, name) in enumerate(STAGES):
        x = 4 + i * 104
        here = number == chapter
        done = number < chapter
        fill = YELLOW if here else GREEN if done else GROUND
        parts.append(box(x, 6, 96, 44, "", "", fill=fill, edge=INK if here else GREY))
        bold = 600 if here else 400
        parts += [text(x + 48, 25, name, 13, font_weight=bold), text(x + 48, 42, number, 12)]
        if i:
            parts.append(arrow(x - 8, 28, 8))
    name = dict(STAGES).get(chapter, "the whole road")
    told = f"The course in nine steps, {', '.join(n for _, n in STAGES)}. You are here: {name}."
    return svg(4 + len(STAGES) * 104 - 8, 56, told, *parts)


# -- chapter 00 ---------------------------------------------------------------------------------------------
def datasets() -> str:
    rows = (
        ("SFT model", "imitates", "demonstrations", "13,000 · here 1,700", "people write answers", BLUE),
        (
            "reward model",
            "predicts a choice",
            "rankings",
            "33,000 · here 4,400",
            "people order answers",
            PINK,
        ),
        ("policy", "is rewarded", "prompts alone", "31,000 · here 3,100", "nobody writes or ranks", GREEN),
    )
    parts = []
    for i, (model, how, data, size, who, fill) in enumerate(rows):
        y = 10 + i * 78
        parts += [
            box(10, y, 190, 60, data, size),
            text(212, y + 36, who, 12, GREY, "start"),
            arrow(362, y + 30, 90, 0, how),
            box(462, y, 170, 60, model, fill=fill),
        ]
        if i < 2:
            word = "writes what is ranked, and starts the policy" if i == 0 else "scores every answer"
            parts += [arrow(547, y + 60, 0, 18), text(560, y + 74, word, 12, GREY, "start")]
    told = (
        "Three data sets and three models: 13,000 demonstrations make the SFT model, 33,000 rankings the "
        "reward model, 31,000 prompts alone the policy. Here: 1,700, 4,400 and 3,100."
    )
    return svg(830, 236, told, *parts)


def lineage() -> str:
    line = (
        (10, 96, "GPT-1", "2018", GROUND),
        (110, 96, "GPT-2", "2019", GROUND),
        (210, 96, "GPT-3", "2020", BLUE),
        (330, 30, "Codex", "2021, reads code", GROUND),
        (330, 162, "text-davinci-001", "and instruct-beta", YELLOW),
        (530, 162, "InstructGPT", "Jan. 2022, PPO", YELLOW),
        (530, 30, "text-davinci-002, 003", "2022, code, instructions", YELLOW),
        (740, 96, "ChatGPT", "Nov. 2022", GREEN),
        (850, 96, "GPT-4", "2023", GREEN),
        (330, 232, "Gopher", "and Chinchilla, DeepMind", GROUND),
        (530, 232, "Sparrow", "Sept. 2022, rules and RL", GROUND),
    )
    widths = {"InstructGPT": 180, "text-davinci-002, 003": 180, "Sparrow": 180}
    parts = []
    for x, y, name, when, fill in line:
        parts.append(box(x, y, widths.get(name, 170 if x == 330 else 84), 52, name, when, fill=fill))
    for x, y, dx, dy in (
        (94, 122, 14, 0),
        (194, 122, 14, 0),
        (294, 112, 34, -52),
        (294, 132, 34, 52),
        (500, 188, 28, 0),
        (500, 56, 28, 0),
        (620, 162, 0, -78),
        (710, 62, 28, 46),
        (500, 258, 28, 0),
    ):
        parts.append(arrow(x, y, dx, dy))
    told = (
        "A family tree: GPT-1, GPT-2, GPT-3; from it Codex, which reads code, and davinci-instruct-beta, "
        "InstructGPT; both meet in text-davinci-002 and 003, from which comes ChatGPT. Behind it GPT-4, a "
        "new base model. Beside them DeepMind's Gopher and Sparrow."
    )
    return svg(944, 296, told, *parts)


# -- chapter 01 ---------------------------------------------------------------------------------------------
def template() -> str:
    parts = [
        box(10, 10, 190, 96, "a conversation", "user: What do cows eat?", "assistant: Cows eat grass."),
        arrow(208, 58, 90, 0, "template"),
        box(
            306,
            10,
            240,
            96,
            "one text",
            "Helpful answers",
            "Question: What do cows eat?",
            "Answer: Cows eat grass.",
        ),
        arrow(554, 58, 90, 0, "tokenizer"),
        box(652, 10, 200, 96, "token ids", "0 · 412 · 77 · … · 918 · 0", "0 is <|endoftext|>"),
    ]
    told = "A conversation becomes one text through the chat template, and token ids through the tokenizer."
    return svg(862, 116, told, *parts)


# -- chapter 02 ---------------------------------------------------------------------------------------------
def shift() -> str:
    words = ("<|endoftext|>", "Cows", "eat", "grass", ".")
    parts = [text(6, 34, "reads", 13, GREY, "start"), text(6, 124, "predicts", 13, GREY, "start")]
    for i, word in enumerate(words):
        x = 80 + i * 132
        parts.append(box(x, 10, 118, 38, word, fill=BLUE))
        following = words[i + 1] if i + 1 < len(words) else "<|endoftext|>"
        parts += [arrow(x + 59, 50, 0, 46), box(x, 100, 118, 38, following, fill=GREEN)]
    told = (
        "Each token of a text is read, and at each place the next one is predicted: one text is many tasks."
    )
    return svg(740, 148, told, *parts)


def attention() -> str:
    words, parts = ("Cows", "eat", "grass", "."), []
    for j, word in enumerate(words):
        parts.append(text(168 + j * 72, 34, word, 13, GREY))
        parts.append(text(112, 74 + j * 46, word, 13, GREY, "end"))
    for i in range(4):
        for j in range(4):
            seen = j <= i
            shade = GROUND if not seen else ("#9cc4f0" if (i, j) in ((2, 1), (3, 2), (1, 0)) else BLUE)
            parts.append(
                f'<rect x="{134 + j * 72}" y="{48 + i * 46}" width="66" height="40" rx="5" fill="{shade}" '
                f'stroke="{GREY}"/>'
            )
            parts.append(text(167 + j * 72, 73 + i * 46, f"q{i + 1}·k{j + 1}" if seen else "−∞", 12))
    parts += [
        arrow(436, 138, 70, 0, "softmax"),
        box(516, 98, 150, 80, "weights", "each row sums to 1", fill=BLUE),
        arrow(672, 138, 60, 0, "· values"),
        box(740, 98, 150, 80, "what is taken in", "a mean of messages", fill=GREEN),
        text(112, 20, "keys →", 12, GREY, "end"),
        text(40, 54, "queries ↓", 12, GREY),
    ]
    told = (
        "Attention: each token's query is multiplied with the keys of the tokens up to it; what comes after "
        "is minus infinity; softmax makes weights of each row, with which the values are averaged."
    )
    return svg(900, 240, told, *parts)


def block() -> str:
    parts = [
        box(10, 76, 118, 60, "tokens", "+ positions"),
        arrow(130, 106, 40),
        f'<rect x="176" y="16" width="520" height="176" rx="12" fill="none" stroke="{GREY}" '
        'stroke-dasharray="5 4"/>',
        text(436, 184, "one block; the laptop's model has four", 12, GREY),
        box(190, 86, 92, 40, "layer norm"),
        arrow(284, 106, 16),
        box(302, 76, 100, 60, "attention", "who says what?", fill=BLUE),
        arrow(404, 106, 14),
        box(420, 88, 36, 36, "+", fill=YELLOW),
        arrow(458, 106, 14),
        box(474, 86, 92, 40, "layer norm"),
        arrow(568, 106, 14),
        box(584, 76, 62, 60, "MLP", "think", fill=BLUE),
        arrow(648, 106, 10),
        box(660, 88, 30, 36, "+", fill=YELLOW),
        around("M176 106V44H438V84"),
        around("M464 106V44H675V84"),
        text(306, 38, "what was there stays: it is added", 12, GREY),
        arrow(698, 106, 34),
        box(734, 76, 92, 60, "layer norm", "once more"),
        arrow(824, 106, 26),
        box(854, 76, 116, 60, "logits", "· token vectors", fill=GREEN),
    ]
    told = (
        "GPT-2: token vectors plus position vectors go through blocks; in each, a layer norm, attention, an "
        "addition, a layer norm, a small network, an addition; at the end a layer norm and the product with "
        "the token vectors, which gives a logit for each token of the vocabulary."
    )
    return svg(980, 204, told, *parts)


# -- chapter 03 ---------------------------------------------------------------------------------------------
def labels() -> str:
    cells = (
        ("Question:", False),
        ("What", False),
        ("do cows eat?", False),
        ("Answer:", False),
        ("Cows", True),
        ("eat", True),
        ("grass.", True),
        ("<|endoftext|>", True),
    )
    parts = [text(6, 34, "tokens", 13, GREY, "start"), text(6, 84, "labels", 13, GREY, "start")]
    x = 70
    for word, counts in cells:
        width = 26 + 8 * len(word)
        fill = GREEN if counts else GROUND
        parts += [
            box(x, 10, width, 38, word, fill=fill),
            box(x, 60, width, 38, word if counts else "−100", fill=fill),
        ]
        x += width + 6
    parts.append(
        text(x / 2, 122, "−100 counts for nothing; the end counts, or it never learns to stop", 12, GREY)
    )
    told = "Labels of a demonstration: minus 100 for the prompt's tokens, the token itself for the answer's."
    return svg(x + 4, 132, told, *parts)


def lora() -> str:
    parts = [
        box(10, 30, 150, 150, "W", "128 × 384", "frozen"),
        text(180, 112, "+", 26, GREY),
        text(206, 112, "2 ·", 18, GREY),
        box(232, 30, 44, 150, "A", "128", "× 4", fill=YELLOW),
        text(292, 112, "·", 26, GREY),
        box(308, 84, 150, 44, "B, 4 × 384", fill=YELLOW),
        text(490, 110, "=", 24, GREY),
        box(514, 30, 150, 150, "what it does", "128 × 384", fill=GREEN),
        text(300, 160, "A and B alone train; B starts at 0", 12, GREY, "start"),
    ]
    told = (
        "LoRA: a frozen matrix of 128 by 384, plus twice the product of one of 128 by 4 and one of 4 by 384."
    )
    return svg(680, 200, told, *parts)


# -- chapter 04 ---------------------------------------------------------------------------------------------
def noise() -> str:
    parts = [
        box(330, 8, 160, 50, "what is better", "a truth nobody sees"),
        box(100, 110, 170, 50, "labeler 1", "right with chance p", fill=BLUE),
        box(550, 110, 170, 50, "labeler 2", "right with chance p", fill=BLUE),
        arrow(350, 60, -130, 46),
        arrow(470, 60, 130, 46),
        f'<path d="M272 135H548" stroke="{GREY}" stroke-width="1.6" stroke-dasharray="4 4"/>',
        text(410, 128, "agree: p² + (1 − p)²", 13, GREY),
        box(330, 190, 160, 50, "a perfect judge", "agrees with each: p", fill=GREEN),
        arrow(330, 206, -100, -44),
        arrow(490, 206, 100, -44),
    ]
    told = (
        "Two labelers who are each right with chance p agree with chance p squared plus one minus p squared; "
        "a perfect judge agrees with each with chance p, which is more."
    )
    return svg(820, 250, told, *parts)


# -- chapter 05 ---------------------------------------------------------------------------------------------
def kwise() -> str:
    parts = [box(10, 92, 120, 56, "one prompt", "read once")]
    for i, name in enumerate("ABCD"):
        y = 10 + i * 56
        parts += [
            arrow(132, 120, 52, y + 20 - 120),
            box(190, y, 120, 40, f"answer {name}", fill=BLUE),
            arrow(312, y + 20, 44),
            box(360, y, 70, 40, f"r{'ABCD'[i]}", fill=YELLOW),
        ]
    pairs = ("A B", "A C", "A D", "B C", "B D", "C D")
    for i, pair in enumerate(pairs):
        first, second = pair.split()
        y = 2 + i * 38
        parts.append(box(560, y, 230, 32, f"−log σ(r{first} − r{second})", fill=GREEN))
    parts += [
        arrow(436, 118, 116, 0, "each with each"),
        text(675, 246, "4 forward passes, 6 comparisons; 9 make 36", 12, GREY),
    ]
    told = (
        "Four answers are scored once each, and their four scores make six comparisons; nine would make 36."
    )
    return svg(810, 256, told, *parts)


def game() -> str:
    parts = []
    states = ("What do cows eat?", "… Cows", "… Cows eat", "… Cows eat grass", "… grass.")
    actions = (" Cows", " eat", " grass", ".", "end")
    for i, (state, action) in enumerate(zip(states, actions)):
        x = 10 + i * 176
        parts += [
            box(x, 30, 130, 52, "state", state, fill=BLUE),
            box(x + 34, 120, 62, 34, action, fill=YELLOW),
            arrow(x + 65, 84, 0, 34),
        ]
        if i < 4:
            parts.append(arrow(x + 98, 128, 74, -44))
    parts += [
        text(10, 20, "the policy draws an action", 12, GREY, "start"),
        arrow(779, 156, 0, 30),
        box(700, 190, 158, 44, "reward", "for the whole answer", fill=GREEN),
        text(686, 218, "no reward on the way; the return is what comes from here on", 12, GREY, "end"),
    ]
    told = (
        "An answer as a game: the state is the prompt with the tokens so far, each next token is an action "
        "that the policy draws, and after the last one the reward model gives a reward for the whole answer."
    )
    return svg(880, 244, told, *parts)


def four_models() -> str:
    parts = [
        box(10, 96, 120, 48, "prompt", fill=GROUND),
        arrow(132, 120, 46),
        box(184, 88, 150, 64, "policy", "trained; draws", fill=BLUE),
        arrow(336, 120, 50, 0, "answer"),
        box(392, 8, 176, 52, "reference (SFT)", "frozen; how likely to me?"),
        box(392, 94, 176, 52, "reward model", "frozen; how good?"),
        box(392, 180, 176, 52, "value model", "trained; what do I expect?", fill=BLUE),
        arrow(570, 34, 58, 56, "toll"),
        arrow(570, 120, 58, 0, "score"),
        arrow(570, 206, 58, -56, "value"),
        box(634, 88, 110, 64, "advantage", "of each token", fill=YELLOW),
        around("M689 154 C 689 300, 260 300, 259 160"),
        text(474, 278, "steps: what went better than expected becomes likelier", 12, GREY, "middle"),
    ]
    told = (
        "The four models of PPO: the policy draws an answer; the frozen SFT model gives the toll, the frozen "
        "reward model the score, the value model what was expected; together they make the advantage of each "
        "token, by which policy and value model are trained."
    )
    return svg(760, 290, told, *parts)


def resample() -> str:
    things = ("cows", "Japan", "iron", "bears")
    fills = dict(zip(things, (BLUE, GREEN, YELLOW, PINK)))
    prompts = {"cows": 3, "Japan": 2, "iron": 1, "bears": 2}
    parts = [text(10, 22, "what was asked: things, each with its prompts", 12, GREY, "start")]
    x = 10
    for thing in things:
        width = 30 + 36 * prompts[thing]
        parts.append(box(x, 34, width, 40, thing, fill=fills[thing]))
        x += width + 12
    rows = (
        ("cows", "cows", "iron", "bears"),
        ("Japan", "bears", "Japan", "iron"),
        ("iron", "cows", "bears", "iron"),
    )
    for k, drawing in enumerate(rows):
        y, x = 120 + 58 * k, 120
        parts.append(text(10, y + 25, f"drawing {k + 1}", 13, GREY, "start"))
        for thing in drawing:
            width = 30 + 36 * prompts[thing]
            parts.append(box(x, y, width, 40, thing, fill=fills[thing]))
            x += width + 8
        parts += [arrow(600, y + 20, 40), text(650, y + 25, "a mean", 13, GREY, "start")]
    parts.append(text(650, 312, "… 2,000 means; their middle 95 % is the interval", 12, GREY, "end"))
    told = (
        "The bootstrap over things: as many things as there are get drawn with replacement, each with all of "
        "its prompts, and a mean is taken; the middle 95 % of many such means is the interval."
    )
    return svg(760, 322, told, *parts)


def window() -> str:
    parts = []
    turns = ("you", "model", "you", "model", "you", "model", "you")
    for i, turn in enumerate(turns):
        x, mine = 10 + i * 104, turn == "you"
        inside = i >= 2
        fill = (BLUE if mine else GREEN) if inside else GROUND
        parts.append(box(x, 50, 92, 44, turn, f"turn {i + 1}", fill=fill))
    parts += [
        '<rect x="212" y="34" width="530" height="76" rx="10" fill="none" stroke="#3a86d8" '
        'stroke-width="2.5"/>',
        text(476, 24, "what fits into the window is read, all of it, for each answer", 12, GREY),
        text(106, 130, "dropped, two turns at a time", 12, GREY),
        arrow(744, 72, 40),
        box(790, 50, 80, 44, "answer", fill=YELLOW),
    ]
    told = (
        "A window over the last turns of a conversation: what is inside is read for each answer; the oldest "
        "turns, two at a time, have dropped out and are not read any more."
    )
    return svg(880, 140, told, *parts)


def ways() -> str:
    parts = [
        box(8, 78, 116, 56, "rankings", "of SFT's answers", fill=PINK),
        arrow(126, 92, 68, -34),
        arrow(126, 122, 68, 70),
        box(200, 30, 132, 52, "reward model", fill=YELLOW),
        arrow(334, 44, 86, -16),
        arrow(334, 56, 86, 0),
        arrow(334, 68, 86, 44),
        box(426, 4, 150, 42, "choose", "best of n", fill=GROUND),
        box(426, 52, 150, 42, "imitate the best", "rejection sampling", fill=BLUE),
        box(426, 100, 150, 56, "policy gradients", "REINFORCE, RLOO,", "GRPO, PPO", fill=BLUE),
        box(200, 176, 376, 42, "DPO", "straight into the policy, without a reward model", fill=BLUE),
        arrow(578, 25, 66),
        arrow(578, 73, 66),
        arrow(578, 128, 66),
        arrow(578, 197, 66),
        text(652, 30, "no new model: n answers each time", 12, GREY, "start"),
        text(652, 78, "SFT once more, on its own winners", 12, GREY, "start"),
        text(652, 133, "draw, score, step, again and again", 12, GREY, "start"),
        text(652, 202, "one training, nothing is drawn", 12, GREY, "start"),
    ]
    told = (
        "From rankings to a better model. By a reward model: choose the best of n answers; or fine-tune on "
        "the best ones; or policy gradients (REINFORCE, RLOO, GRPO, PPO), which draw again and again. "
        "Or DPO, straight from the rankings into the policy."
    )
    return svg(900, 226, told, *parts)


# -- chapter 11 ---------------------------------------------------------------------------------------------
def questions() -> str:
    """Which questions are ranked, which train, and which only measure."""
    parts = [
        box(10, 80, 150, 70, "160 questions", "of everyday life"),
        arrow(160, 100, 60, -40),
        arrow(160, 130, 60, 40),
        box(224, 26, 170, 60, "120 to train on", "the policy answers them", fill=GREEN),
        box(224, 146, 170, 60, "40 held out", "measured alone", fill=YELLOW),
        arrow(394, 56, 50, 0, "half"),
        box(448, 26, 150, 60, "60 to rank", "four answers each", fill=BLUE),
        arrow(598, 56, 50, 0, "half"),
        box(652, 26, 150, 60, "30 rankings", "fit the head", fill=PINK),
        box(448, 146, 150, 60, "141 facts", "about countries", fill=YELLOW),
        box(652, 146, 150, 60, "a page of prose", "the guidelines", fill=YELLOW),
        text(520, 130, "never ranked, never trained on: only measured", 12, GREY),
    ]
    told = (
        "Of 160 questions 120 train the policy; 60 of these are answered four times, and 30 rankings of them "
        "fit the head. The other 40, 141 facts and a page of prose are only measured."
    )
    return svg(812, 222, told, *parts)


def side_by_side() -> str:
    """A prompt and two answers in one line: positions, and who sees whom."""
    words = ["Moon", "?", "Our", "satellite", "A", "cheese"]
    kinds = [BLUE, BLUE, GREEN, GREEN, PINK, PINK]
    places = [0, 1, 2, 3, 2, 3]
    parts = [
        text(120, 62, "tokens", 13, GREY, "end"),
        text(120, 100, "positions", 13, GREY, "end"),
        text(120, 130, "each sees:", 13, GREY, "end"),
    ]
    for k, name in enumerate(("the prompt", "one answer", "another answer")):
        parts.append(text(212 + 168 * k, 26, name, 12, GREY))
    for i, (word, fill, place) in enumerate(zip(words, kinds, places)):
        x = 132 + 84 * i
        parts += [box(x, 40, 76, 34, word, fill=fill), text(x + 38, 100, str(place), 14, GREY)]
        parts.append(text(120, 156 + 26 * i, word, 12, GREY, "end"))
        for j in range(len(words)):
            seen = j <= i and (kinds[j] == BLUE or kinds[j] == kinds[i])
            shade = kinds[j] if seen else "none"
            parts.append(
                f'<rect x="{132 + 84 * j}" y="{140 + 26 * i}" width="76" height="22" rx="4" fill="{shade}" '
                f'stroke="{GREY}"/>'
            )
    told = (
        "Prompt and two answers in one line. The second answer has the positions of the first, and does not "
        "see it: each answer sees the prompt, and of itself what came before."
    )
    return svg(640, 304, told, *parts)


def one_trunk() -> str:
    """What RLOO with adapters holds in memory."""
    parts = [
        box(10, 20, 190, 60, "adapters", "2.4 M weights, trained", fill=YELLOW),
        box(10, 90, 190, 80, "SmolLM2, frozen", "135 M weights", fill=BLUE),
        arrow(200, 50, 96, 0, "with"),
        box(300, 20, 180, 60, "policy", "writes four answers", fill=GREEN),
        arrow(200, 130, 96, 0, "without"),
        box(300, 100, 180, 60, "reference", "the toll is measured to it"),
        box(10, 200, 190, 70, "SmolLM2, frozen", "and a head of 576 numbers", fill=BLUE),
        arrow(200, 235, 96),
        box(300, 205, 180, 60, "reward model", "scores each answer", fill=PINK),
        arrow(480, 50, 60, 66),
        arrow(480, 132, 60, 6, "toll"),
        arrow(480, 235, 60, -70),
        box(
            544,
            96,
            200,
            90,
            "each answer’s reward",
            "less the mean of the",
            "other three: no value",
            "model is needed",
        ),
    ]
    told = (
        "One frozen trunk with adapters is the policy, without them the reference; a second frozen one with "
        "a head is the reward model. The other three answers to a question are the baseline."
    )
    return svg(760, 286, told, *parts)


def figures() -> dict[str, str]:
    """All drawn figures, by the names of their files."""
    made = {f"where_{number}": where(number) for number in ("00", *dict(STAGES))}
    first = (datasets, lineage, template, shift, attention, block, labels, lora, noise, kwise)
    drawn = (*first, game, four_models, resample, window, ways, questions, side_by_side, one_trunk)
    return made | {draw.__name__: draw() for draw in drawn}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, picture in figures().items():
        (FOLDER / f"{name}.svg").write_text(picture, "utf-8")
        print(f"chapters/figures/{name}.svg")
