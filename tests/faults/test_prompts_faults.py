"""Slips in soft prompts: what stands before the input, how a prompt begins, who votes, and what is frozen."""

from __future__ import annotations

from planting import Fault, Planted


class TestPrompts(Planted):
    """A prompt is read by all, moves nothing else, and is all that is trained."""

    faults = (
        Fault(
            "prompt-hidden-as-padding",
            "models/reader.py",
            "shown = seen[:, :1].new_ones(())",
            "shown = seen[:, :1].new_zeros(())",
            "the prompt is masked, as if it were padding",
            tests=("test_prompts.py::test_the_embeddings_of_words_are_the_words",),
        ),
        Fault(
            "prompt-uncovers-padding",
            "models/reader.py",
            "return torch.cat([prompt, h], -2), torch.cat([shown, seen], -1)",
            "return torch.cat([prompt, h], -2), torch.cat([shown, torch.ones_like(seen)], -1)",
            "behind a prompt everybody looks at padding",
            tests=("test_prompts.py::test_padding_stays_hidden_behind_a_prompt",),
        ),
        Fault(
            "prompt-behind-the-input",
            "models/reader.py",
            "at = at + prompt.shape[-2]",
            "at = at + 0",
            "the answer is read where it would stand without a prompt",
            tests=("test_prompts.py::test_the_embeddings_of_words_are_the_words",),
        ),
        Fault(
            "prefix-of-the-first-block-everywhere",
            "models/reader.py",
            "h = at_places(block, h, seen, at, None if prefix is None else prefix[i])",
            "h = at_places(block, h, seen, at, None if prefix is None else prefix[0])",
            "the last block finds the first one's prefix",
            tests=(
                "test_prompts.py::test_a_prompt_is_a_prefix_of_the_keys_and_values_that_it_makes",
                "test_prompts.py::test_a_prefix_is_attention_written_out",
            ),
        ),
        Fault(
            "no-prefix-before-the-last-block",
            "models/reader.py",
            "h = at_places(block, h, seen, everywhere, prefix[i])",
            "h = block(h, seen)[0]",
            "the blocks before the last find no prefix",
            tests=(
                "test_prompts.py::test_a_prompt_is_a_prefix_of_the_keys_and_values_that_it_makes",
                "test_prompts.py::test_only_the_prefix_is_trained",
            ),
        ),
        Fault(
            "prefix-hidden-as-padding",
            "models/reader.py",
            "seen[:, :1].new_ones(()).expand(len(h), prefix.shape[1])",
            "seen[:, :1].new_zeros(()).expand(len(h), prefix.shape[1])",
            "nobody looks at the prefix",
            tests=("test_prompts.py::test_a_prefix_is_attention_written_out",),
        ),
        Fault(
            "keys-for-values",
            "models/reader.py",
            "own_key, own_value = prefix",
            "own_value, own_key = prefix",
            "keys of a prefix are taken for its values",
            tests=("test_prompts.py::test_a_prefix_is_attention_written_out",),
        ),
        Fault(
            "one-head-s-part-for-another",
            "models/reader.py",
            "prefix.unflatten(-1, (block.heads, -1)).transpose(1, 2)",
            "prefix.unflatten(-1, (-1, block.heads)).movedim(-1, 1)",
            "heads find the numbers of other heads in a prefix",
            tests=("test_prompts.py::test_a_prefix_is_attention_written_out",),
        ),
        Fault(
            "prefix-of-embeddings",
            "prompts.py",
            "h = block(h, h.new_ones(h.shape[:2], dtype=torch.bool))[0]",
            "h = h + 0",
            "all blocks' keys and values are made of the prompt as it stands before the first",
            tests=("test_prompts.py::test_a_prefix_begins_as_what_each_block_makes_of_a_prompt_alone",),
        ),
        Fault(
            "words-drawn-with-putting-back",
            "prompts.py",
            "torch.randperm(len(numbers), generator=draws)[:count]",
            "torch.randint(len(numbers), (count,), generator=draws)",
            "a word may stand in a prompt several times",
            tests=("test_prompts.py::test_words_are_drawn_without_putting_back_from_the_frequent_ones",),
        ),
        Fault(
            "labels-cut-off",
            "prompts.py",
            "if count < len(labels):",
            "if count < 0:",
            "a prompt shorter than the labels are many loses some of them",
            tests=("test_prompts.py::test_labels_never_fall_away_unseen",),
        ),
        Fault(
            "label-by-its-first-word",
            "prompts.py",
            'table[_rows("labels", label, table)].detach().mean(0)',
            'table[_rows("labels", label, table)].detach()[0]',
            "of a label of several words the first stands for it",
            tests=("test_prompts.py::test_labels_stand_first_and_the_mean_of_their_words_counts",),
        ),
        Fault(
            "prompts-mixed-up-in-the-batch",
            "prompts.py",
            "each = prompts.repeat_interleave(texts, 1)",
            "each = prompts.repeat(1, texts, 1, 1)",
            "copies of a text get the prompts of others",
            tests=("test_prompts.py::test_a_batch_of_copies_is_as_many_passes",),
        ),
        Fault(
            "minority-wins",
            "prompts.py",
            "votes.argmax(0, keepdim=True)",
            "votes.argmin(0, keepdim=True)",
            "the rarest answer is taken",
            tests=("test_prompts.py::test_the_majority_wins_and_a_tie_goes_to_the_first_prompt",),
        ),
        Fault(
            "optimiser-over-all-weights",
            "frozen.py",
            "trained = {name: weights[name].detach().clone().requires_grad_(True) for name in free}",
            "trained = {name: weights[name].detach().clone().requires_grad_(True) for name in weights}",
            "what is called frozen is trained along",
            tests=(
                "test_prompts.py::test_only_the_prompt_is_trained",
                "test_prompts.py::test_only_what_is_free_is_trained",
            ),
        ),
        Fault(
            "networks-share-a-mean",
            "frozen.py",
            "losses.mean(1).sum().backward()",
            "losses.mean().backward()",
            "steps depend on how many networks are trained side by side",
            tests=("test_prompts.py::test_training_is_that_of_one_network_alone_in_plain_pytorch",),
        ),
        Fault(
            "images-of-the-first-network-train-all",
            "frozen.py",
            "batch.words, batch.rows, places",
            "batch.words, None if batch.rows is None else batch.rows[:1].expand_as(batch.rows), places",
            "every network of a stack is trained on the first one's images",
            tests=("test_prompts.py::test_a_prefix_is_trained_as_by_one_network_alone_in_plain_pytorch",),
        ),
        Fault(
            "rates-begin-at-their-peak",
            "frozen.py",
            "min(1, 10 * (step + 1) / last)",
            "1",
            "pre-training begins at the largest rate",
            tests=("test_prompts.py::test_rates_go_up_and_down",),
        ),
        Fault(
            "fingerprint-of-names",
            "frozen.py",
            "total.update(t.reshape(-1).view(torch.uint8).numpy().tobytes())",
            "",
            "a hash that no weight moves",
            tests=("test_prompts.py::test_the_fingerprint_tells_names_shapes_types_and_every_bit",),
        ),
    )


class TestSearch(Planted):
    """Rates are chosen by held-out samples, by all seeds alike."""

    faults = (
        Fault(
            "first-seed-chooses",
            "search.py",
            "sum(scores) / len(scores)",
            "scores[-1]",
            "one seed chooses for all",
            tests=("test_search.py::test_the_largest_mean_over_seeds_wins",),
        ),
        Fault(
            "divergence-wins",
            "search.py",
            'if trial["score"] == trial["score"] else float("-inf")',
            "",
            "a score that is no number, once first, is never beaten",
            tests=("test_search.py::test_of_equals_the_first_and_never_one_that_diverged",),
        ),
        Fault(
            "seeds-that-diverged-are-left-out",
            "search.py",
            "sum(scores) / len(scores)",
            "sum(s for s in scores if s == s) / max(1, sum(s == s for s in scores))",
            "a value's mean is that of the seeds that went well",
            tests=("test_search.py::test_one_seed_that_diverged_makes_its_value_the_least",),
        ),
    )


class TestCorpus(Planted):
    """What is tested on stays unseen."""

    faults = (
        Fault(
            "phrases-of-the-test-part-train",
            "data/corpus.py",
            'texts = [row for row in texts if row[0] not in held_out]\n    loading._used["sst2"]',
            'texts = [row for row in texts if row[0]]\n    loading._used["sst2"]',
            "phrases of the test part are trained on",
            tests=("test_corpus.py::test_phrases_of_the_test_part_are_left_out_of_the_others",),
        ),
    )


class TestReading(Planted):
    """Questions have right answers, and their task is none of them."""

    faults = (
        Fault(
            "yes-means-no",
            "reading.py",
            "y[some][:, None], torch.where(right, 2.0, -1.0)",
            "y[some][:, None], torch.where(right, -1.0, 2.0)",
            "the image's digit is listed where the answer is no",
            tests=("test_reader.py::test_questions_about_digits_have_right_answers",),
        ),
        Fault(
            "test-images-choose-the-rate",
            "reading.py",
            "part(samples + labelled, end)",
            "part(samples + labelled, len(y))",
            "what is held out to choose a rate holds the test images",
            tests=("test_reader.py::test_no_image_serves_two_purposes",),
        ),
        Fault(
            "reviews-turned-round",
            "reading.py",
            "(text, 5 - kind) for text, kind in films",
            "(text, 4 + kind) for text, kind in films",
            "good reviews count as bad ones",
            tests=("test_reader.py::test_questions_about_texts_have_right_answers",),
        ),
        Fault(
            "labelled-texts-are-held-out-too",
            "reading.py",
            "order[labelled:][:1000]",
            "order[:1000]",
            "what is tuned on chooses the rate",
            tests=("test_reader.py::test_the_task_of_texts_is_a_list_of_three_and_parts_are_apart",),
        ),
    )
