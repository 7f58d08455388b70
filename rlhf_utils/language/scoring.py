"""What models say of packed answers: log-probabilities and scores."""

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from rlhf_utils.language.device import computing_dtype
from rlhf_utils.language.models import bare, is_gpt2, plain_attention, token_cross_entropy, trunk_of
from rlhf_utils.language.packing import Packed
from rlhf_utils.language.recomputing import by_layers, recomputing


def hidden_states(model, packed: Packed, memory: list[Tensor] | None = None) -> Tensor:
    """Last hidden states of the trunk where they are read, (read, width).

    Of GPT-2, its own pass below; any other architecture of transformers takes positions and a mask of who
    sees whom (lines, 1, width, width) itself, and gives no `memory`. So does GPT-2 where memory is short.
    """
    if is_gpt2(model) and (memory is not None or not by_layers(model)):
        return gpt2_hidden_states(model, packed, memory)
    with recomputing(model):
        found = trunk_of(model)(
            input_ids=packed.ids,
            position_ids=packed.positions,
            attention_mask=packed.attention_bias.to(computing_dtype()),
            use_cache=False,
        )
    return found.last_hidden_state.flatten(0, 1).index_select(0, packed.read_positions)


def gpt2_hidden_states(model, packed: Packed, memory: list[Tensor] | None = None) -> Tensor:
    """GPT2Model's forward pass but for its end: the last MLP sees only what is read, and no prompt. The keys
    and values of all tokens, (lines · their width, 2 · width), go into `memory`, block by block.
    """
    trunk, heads = model.transformer, model.config.n_head
    attend = AttentionInterface()[model.config._attn_implementation]
    bias = packed.attention_bias.to(computing_dtype())
    if attend is plain_attention:
        bias = bias.repeat(1, heads, 1, 1)  # once rather than in each block
    x = trunk.drop(trunk.wte(packed.ids) + trunk.wpe(packed.positions))
    for number, block in enumerate(trunk.h, 1):
        attention = block.attn
        query_key_value = attention.c_attn(block.ln_1(x))  # side by side, (lines, width, 3 · model width)
        if memory is not None:
            memory.append(query_key_value[..., x.shape[-1] :].flatten(0, 1))
        query, key, value = query_key_value.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = attention.attn_dropout.p * block.training
        mixed, _ = attend(attention, query, key, value, bias, scaling=attention.scaling, dropout=dropout)
        x = x + attention.resid_dropout(attention.c_proj(mixed.flatten(2)))
        if number == len(trunk.h):
            # The backward pass of index_select is faster than that of x[…].
            x = x.flatten(0, 1).index_select(0, packed.read_positions)
        x = x + block.mlp(block.ln_2(x))
    return trunk.ln_f(x)


def next_logits(model, hidden: Tensor) -> Tensor:
    """Logits of the next token; a reward model's trunk has a language model's output, too, where that is the
    word embedding once more (`tie_word_embeddings`).
    """
    if is_gpt2(model):
        return hidden @ model.transformer.wte.weight.T.to(hidden.dtype)
    inner = bare(model)
    output, most = inner.get_output_embeddings(), getattr(inner.config, "final_logit_softcapping", None)
    words = inner.get_input_embeddings().weight
    logits = hidden @ words.T.to(hidden.dtype) if output is None else output(hidden)
    return most * torch.tanh(logits / most) if most else logits  # as Gemma does


def answer_logprobs(
    model, packed: Packed, pad: int, temperature: float = 1.0, hidden: Tensor | None = None
) -> Tensor:
    """Log-probabilities of answer tokens under a model, (answers, longest answer), 0 beyond an answer's end.

    `hidden` are the model's hidden states if they are known already.
    """
    hidden = hidden_states(model, packed) if hidden is None else hidden
    logits = next_logits(model, hidden.index_select(0, packed.before))
    logits[:, pad] = -torch.inf  # sampling never draws <pad>, so it takes no part in the softmax either
    if temperature != 1.0:
        logits = logits / temperature
    return packed.table(-token_cross_entropy(logits, packed.answer_ids))


def window_loss(model, ids: Tensor) -> Tensor:
    """Mean cross-entropy in nats of the next token over windows of text, (windows, context): one number."""
    with recomputing(model):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return token_cross_entropy(logits, ids[:, 1:]).mean()


def head_scores(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """The scalar head; where there is a head for somebody's taste, plus `scale` · σ(that head − `middle`)
    (`config.taste`).
    """
    values = model.score(hidden).float()
    if values.shape[-1] == 1:
        return values.squeeze(-1)
    taste = model.config.taste
    return values[..., 0] + taste["scale"] * torch.sigmoid(values[..., 1] - taste["middle"])


def answer_scores(model: PreTrainedModel, packed: Packed) -> Tensor:
    """What a reward model thinks of each answer, (answers,).

    The score is the scalar head at the answer's last token plus `config.likelihood` times the log-probability
    that the model's own language model gives the answer. With a likelihood of 0 it is InstructGPT's.
    """
    hidden = hidden_states(model, packed)
    scores = head_scores(model, hidden[packed.ends])
    likelihood = getattr(model.config, "likelihood", 0.0)
    if not likelihood:
        return scores
    logprobs = -token_cross_entropy(
        next_logits(model, hidden.index_select(0, packed.before)), packed.answer_ids
    )[: len(packed.rows)]
    return scores + likelihood * torch.zeros_like(scores).index_add(0, packed.rows, logprobs)
