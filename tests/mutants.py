"""Mutants of the trap tests: `python -m tests.mutants [9 15 ...]`. See `mutation.py`."""

from __future__ import annotations

import sys

from tests.mutation import Mutant, main

MUTANTS = [
    Mutant(
        1,
        "sampled turns are encoded again from their text",
        "T/inference/dialogue.py",
        '        self._history.append(Message("assistant", text))\n',
        "        again = self._chat.answer(text)\n"
        "        ids = self.session.tokens.ids\n"
        "        start = len(ids) - len(turn.token_ids)\n"
        "        ids[start:] = (again + ids[start:])[: len(turn.token_ids)]\n"
        '        self._history.append(Message("assistant", text))\n',
    ),
    Mutant(
        2,
        "a rewritten history is accepted as an appended one",
        "T/model/rendering/template_renderer.py",
        "        if not self._render(past, tools, masks).startswith(kept):\n",
        "        if False:\n",
    ),
    Mutant(
        2,
        "our own template omits the newline after a turn",
        "T/model/chatml.py",
        '        return Extension(end + self._encode("\\n") + self._turns(new)',
        "        return Extension(end + self._turns(new)",
    ),
    Mutant(
        3,
        "the template tokens after a turn are trained",
        "T/inference/token_session.py",
        "        self.mask += [False] * len(ids)\n",
        "        self.mask += [bool(n == 0) for n in range(len(ids))]\n",
    ),
    Mutant(
        4,
        "the sampler and the learner scale the adapter differently",
        "T/model/lora.py",
        "    merged = torch.addmm(weight.to(b.dtype), b, a, alpha=layer.scaling[name])\n",
        "    merged = torch.addmm(weight.to(b.dtype), b, a, alpha=0.99 * layer.scaling[name])\n",
    ),
    Mutant(
        5,
        "the adapter is merged into the base weights and subtracted again",
        "T/inference/in_process/sampler_model.py",
        "            merged = lora.merge(layers[name]) if name in layers else None\n",
        "            merged = None\n"
        "            if name in layers:\n"
        "                delta = lora.merge(layers[name]) - base\n"
        "                base += delta\n"
        "                merged = base.clone()\n"
        "                base -= delta\n",
    ),
    Mutant(
        6,
        "the KV cache is kept after an update",
        "T/inference/in_process/engine.py",
        "            self._replica.refresh(model)\n            self._scheduler.forget()\n",
        "            self._replica.refresh(model)\n",
    ),
    Mutant(
        7,
        "the adapter of one module type is ignored silently",
        "T/inference/in_process/sampler_model.py",
        "merged = lora.merge(layers[name]) if name in layers else None\n",
        "merged = lora.merge(layers[name]) "
        'if name in layers and not name.endswith("up_proj") else None\n',
    ),
    Mutant(
        8,
        "the KV cache has another precision than the model",
        "T/inference/in_process/forward.py",
        "dtype=self.model.dtype,",
        "dtype=torch.float32,",
    ),
    Mutant(
        8,
        "the sampler's self-check accepts any difference",
        "T/inference/in_process/forward.py",
        "        if not gap < (1e-3 if self.model.dtype == torch.float32 else 0.1):\n",
        "        if not gap < 1e9:\n",
    ),
    Mutant(
        9,
        "each micro-batch is divided by its own token count",
        "T/learner/learner.py",
        "                logprobs,\n                denominator=denominator,\n",
        "                logprobs,\n                denominator=float(batch.weights.sum()),\n",
    ),
    Mutant(
        10,
        "eps is not added to the standard deviation",
        "T/algorithms/advantages/group.py",
        "        centered = centered / (deviation + eps)\n",
        "        centered = centered / (deviation + 1e-12)\n",
    ),
    Mutant(
        10,
        "the standard deviation uses one degree of freedom less",
        "T/algorithms/advantages/group.py",
        "        deviation = (squares / freedom).sqrt()\n",
        "        deviation = (squares / (freedom - 1)).sqrt()\n",
    ),
    Mutant(
        11,
        "samples without an advantage are left out of the denominator",
        "T/learner/learner.py",
        "        denominator = self.ranks.total(share) or 1.0\n",
        "        denominator = "
        "_total_weight([sample for sample in samples if sample.has_advantage]) or 1.0\n",
    ),
    Mutant(
        12,
        "groups mix episodes of different tasks",
        "T/rollout/groups.py",
        "[episodes[start : start + size] for start in range(0, len(episodes), size)]",
        "[episodes[start :: len(episodes) // size] for start in range(len(episodes) // size)]",
    ),
    Mutant(
        13,
        "each group member starts from a different state",
        "envgym/env.py",
        "            seed=task.seed, timeout_seconds=world.spec",
        "            seed=random.getrandbits(30), timeout_seconds=world.spec",
    ),
    Mutant(
        14,
        "only the tokenizer's end token ends a turn",
        "T/model/chat.py",
        ' | eos_ids(getattr(model, "generation_config", None))',
        "",
    ),
    Mutant(
        14,
        "the end token is not trained",
        "T/inference/token_session.py",
        "        dialogue.mask.append(True)\n",
        "        dialogue.mask.append(token not in self.stop_ids)\n",
    ),
    Mutant(
        15,
        "the attention mask is derived from the token ids",
        "T/batch.py",
        "        attention_mask=positions < torch.tensor(lengths)[:, None],  # (B, S)\n",
        "        attention_mask=torch.tensor(rows) != pad_id,\n",
    ),
    Mutant(
        16,
        "position ids run backwards",
        "T/batch.py",
        "        position_ids=positions.expand(len(rows), width),\n",
        "        position_ids=positions.flip(0).expand(len(rows), width),\n",
    ),
    Mutant(
        17,
        "a token attends to a sibling branch",
        "T/learner/tree_attention.py",
        "        mask = (keys <= rows[:, None]) & (rows[:, None] < subtree_end[keys])\n",
        "        mask = keys <= rows[:, None]\n",
    ),
    Mutant(
        18,
        "a branch counts its positions from its own start",
        "T/learner/prefix_tree.py",
        "        depths += range(shared, len(inputs[stream]))\n",
        "        depths += range(len(inputs[stream]) - shared)\n",
    ),
    Mutant(
        18,
        "a token shared by several samples gets the gradient of only one",
        "T/learner/learner.py",
        "                output = loss("
        "batch, logprobs[batch.action_nodes], entropy[batch.action_nodes])\n",
        "                first = torch.zeros(len(batch.action_nodes), dtype=torch.bool)\n"
        "                first[[batch.action_nodes.tolist().index(n) "
        "for n in range(len(logprobs))]] = True\n"
        "                given = logprobs[batch.action_nodes]\n"
        "                output = loss("
        "batch, torch.where(first, given, given.detach()), entropy)\n",
    ),
    Mutant(
        19,
        "observation tokens are scored like sampled tokens",
        "T/batch.py",
        "            if sampled:\n                node =",
        "            if t:\n                node =",
    ),
    Mutant(
        20,
        "an episode cut at its turn limit counts as terminated",
        "envgym/tool_episode.py",
        " reward, not truncated, truncated, info\n",
        " reward, True, False, info\n",
    ),
    Mutant(
        20,
        "truncated episodes are left out of the batch",
        "T/algorithms/credit.py",
        "    if trace is None or episode.is_void:\n        return None\n    is_cut",
        "    if trace is None or episode.is_void or episode.truncated:\n"
        "        return None\n    is_cut",
    ),
    Mutant(
        21,
        "a token's advantage is applied to the preceding token",
        "T/batch.py",
        "(*path[t - 1], sample.token_ids[t])",
        "(*path[max(t - 2, 0)], sample.token_ids[t])",
    ),
    Mutant(
        21,
        "the last turn's reward replaces the earlier rewards",
        "envgym/record.py",
        "        self.reward += value\n        self.turn_rewards.append",
        "        self.reward = value\n        self.turn_rewards.append",
    ),
    Mutant(
        22,
        "the KL penalty has the gradient of another estimator",
        "T/algorithms/kl.py",
        "    return log_ratio.exp() - 1 - log_ratio\n",
        "    return log_ratio.exp().detach() - 1 - log_ratio\n",
    ),
    Mutant(
        23,
        "scoring uses temperature 1",
        "T/learner/learner.py",
        "            batch.score_ids,\n            temperature=temperature,",
        "            batch.score_ids,\n            temperature=1.0,",
    ),
    Mutant(
        23,
        "unknown sampling settings are accepted",
        "envgym/block.py",
        'extra="forbid"',
        'extra="ignore"',
    ),
    Mutant(
        24,
        "the learning-rate schedule counts forward passes",
        "T/learner/learner.py",
        "                output.loss.backward()\n",
        "                output.loss.backward()\n                self.updates += 1\n",
    ),
    Mutant(
        25,
        "dropout stays on while scoring",
        "T/learner/learner.py",
        "        self.model.eval()\n",
        "        self.model.train()\n",
    ),
    Mutant(
        26,
        "a non-finite update is applied",
        "T/learner/learner.py",
        "            if math.isfinite(norm) and math.isfinite(sums.loss):\n",
        "            if True:\n",
    ),
    Mutant(
        27,
        "the optimizer's state is not restored",
        "T/learner/learner.py",
        '        self.optimizer.load_state_dict(state["optimizer"])\n',
        "",
    ),
    Mutant(
        28,
        "an exception in an environment ends the run",
        "envgym/record.py",
        "        except BaseException as error:  # code of others",
        "        except ZeroDivisionError as error:  # code of others",
    ),
    Mutant(
        28,
        "an episode in a failed world gets reward 0",
        "envgym/record.py",
        'reward=None, success=None, stop_reason="void", failure=kept, tokens=tokens',
        'reward=0.0, success=False, stop_reason="void", tokens=tokens',
    ),
    Mutant(
        28,
        "an environment that cannot be closed ends the run",
        "envgym/playing.py",
        "    except BaseException:  # its episodes",
        "    except ZeroDivisionError:  # its episodes",
    ),
    Mutant(
        28,
        "a reward of NaN is accepted",
        "envgym/record.py",
        "    if not math.isfinite(value):\n",
        "    if False:\n",
    ),
    Mutant(
        29,
        "a long tool output is cut without a marker",
        "envgym/tool_episode.py",
        '            text = f"{text[:limit]} [cut: {len(text) - limit} more characters]"\n',
        "            text = text[:limit]\n",
    ),
    Mutant(
        30,
        "two workers share an environment",
        "envgym/playing.py",
        "            return self._idle.get_nowait()\n",
        "            self._idle.put(env := self._idle.get_nowait())\n            return env\n",
    ),
    Mutant(
        30,
        "two dialogues receive each other's tokens",
        "T/inference/in_process/engine.py",
        "            for turn, token, logprob in zip(turns, *sampled, strict=True):\n",
        "            for turn, token, logprob in zip(turns[::-1], *sampled, strict=True):\n",
    ),
]


if __name__ == "__main__":
    sys.exit(main(MUTANTS))
