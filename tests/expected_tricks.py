"""What must be true of each file in `tests/tricks`: it is refused, or it brings nothing, and how that is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Group = Literal["isolation", "counting", "home"]
Outcome = Literal["refused", "harmless", "either"]


@dataclass(frozen=True)
class Expected:
    """How a trick ends.

    Attributes:
        group: isolation (issue 22, section 1), counting or home (section 2).
        outcome: ``refused``; ``harmless``: it passes and `shown` holds; ``either``: one of the two.
        shown: what a test must show where it passes.
        rule: id of the rule that refuses it; None if it is not foreseen.
        parameters: counted numbers of one that passes and is not the twin.
    """

    group: Group
    outcome: Outcome
    shown: str = ""
    rule: str | None = None
    parameters: int | None = None


TWIN = "hands over what honest_twin hands over: graphs, start and knobs are equal"
ROW = "its graphs are another row wherever they differ from honest_twin's; no row holds runs of two networks"
BOUNDED = "the caller ends it in time, with its memory and its disk as before"
COUNTED = "the ledger counts what it stores, and after every epoch the state has exactly those sizes"
LIMITED = "what it brings from home is within the share that patterns may have, and is counted"

UNHARMED = (
    "the process that called is alive, was neither stopped nor interrupted, and its descriptors are open",
    "no file or folder whose name has harness-trick or harness_trick is anywhere outside the child's scratch folder",
    "journals, the user's files, site-packages and caches have the bytes and times that they had",
)
"""What must be true after every trick, refused or not."""


def isolated(
    outcome: Outcome = "either", shown: str = TWIN, rule: str | None = None, parameters: int | None = None
) -> Expected:
    return Expected("isolation", outcome, shown, rule, parameters)


def counted(
    outcome: Outcome = "refused", shown: str = "", rule: str | None = None, parameters: int | None = None
) -> Expected:
    return Expected("counting", outcome, shown, rule, parameters)


def brought(
    outcome: Outcome = "refused", shown: str = "", rule: str | None = None, parameters: int | None = None
) -> Expected:
    return Expected("home", outcome, shown, rule, parameters)


OUT_OF_REACH = "finds nothing: " + TWIN

TRICKS = {
    # --- isolation: functions of the harness and of torch that are replaced
    "honest_twin": isolated("harmless", "the others of this group are compared with it", parameters=5_338),
    "lifts_the_budget": isolated("refused", rule="parameters"),
    "silences_the_audit": isolated("refused", rule="parameters"),
    "patches_json": isolated("refused", rule="parameters"),
    "hands_over_another_graph": isolated("refused"),
    "replaces_predict": isolated(),
    "replaces_score": isolated(),
    "rewrites_what_is_recorded": isolated(),
    "patches_cross_entropy": isolated(),
    "overrides_eq": isolated(),
    "overrides_batch_norm": isolated(),
    "replaces_builtins": isolated(),
    "patches_the_recorder": isolated(shown="its start is what the recorder wrote, and trains to the bits of that"),
    # --- isolation: what stays behind
    "leaves_a_thread": isolated(),
    "leaves_a_finaliser": isolated(),
    "leaves_a_profiler": isolated(),
    "leaves_a_tracer": isolated(),
    "leaves_an_audit_hook": isolated(),
    "leaves_a_collector_hook": isolated(),
    "leaves_an_import_hook": isolated(),
    "leaves_a_function_mode": isolated(),
    "leaves_a_dispatch_mode": isolated(),
    "leaves_a_forward_hook": isolated(),
    "leaves_autograd_hooks": isolated(),
    "leaves_an_optimizer_hook": isolated(),
    "writes_a_record_at_exit": isolated(),
    "sets_a_timer": isolated(),
    # --- isolation: labels, images, records
    "labels_from_a_frame": isolated(),
    "labels_from_memory": isolated("harmless", OUT_OF_REACH),
    "trains_on_images_it_finds": isolated("harmless", OUT_OF_REACH),
    "trains_on_digits_of_a_package": isolated("harmless", OUT_OF_REACH),
    "asks_the_harness_for_data": isolated("harmless", OUT_OF_REACH),
    "weights_of_a_recorded_run": isolated("harmless", OUT_OF_REACH),
    "writes_a_finished_run": isolated("harmless", TWIN),
    "reads_secrets": isolated("harmless", OUT_OF_REACH),
    "reads_its_parents_environment": isolated("harmless", OUT_OF_REACH),
    "reads_its_parents_memory": isolated("harmless", TWIN),
    # --- isolation: another network elsewhere
    "another_network_by_environment": isolated("harmless", TWIN),
    "another_network_by_the_clock": isolated(shown=ROW, parameters=6_004),
    "another_network_by_its_name": isolated(shown=ROW, parameters=6_004),
    "another_network_by_the_machine": isolated(shown=ROW, parameters=6_004),
    "another_network_by_the_process": isolated(shown=ROW, parameters=6_004),
    "another_network_by_the_arguments": isolated(shown=ROW, parameters=6_004),
    "another_network_by_a_coin": isolated(shown=ROW, parameters=6_004),
    # --- isolation: processes
    "forks_and_stays": isolated(),
    "starts_a_program": isolated(),
    "replaces_its_program": isolated(),
    "opens_a_socket": isolated("harmless", TWIN),
    "kills_its_parent": isolated(),
    "stops_its_parent": isolated(),
    "stops_its_process_group": isolated(shown=BOUNDED),
    "interrupts_the_group": isolated(shown=BOUNDED),
    "traces_its_parent": isolated("harmless", TWIN),
    "leaves_its_namespace": isolated("harmless", TWIN),
    # --- isolation: resources
    "allocates_without_end": isolated("refused", BOUNDED),
    "loops_without_end": isolated("refused", BOUNDED),
    "sleeps_without_end": isolated("refused", BOUNDED),
    "fills_the_disk": isolated(shown=BOUNDED),
    "opens_every_descriptor": isolated(shown=BOUNDED),
    "start_that_piles_up": isolated(shown="its start is replayed within the memory that the child had"),
    "hands_over_half_a_gigabyte": isolated("refused", BOUNDED),
    "eats_memory_when_trained": isolated("refused", BOUNDED),
    # --- isolation: the channel and what is handed over
    "writes_on_every_descriptor": isolated(),
    "sends_a_forged_document": isolated("refused"),
    "sends_a_deep_document": isolated("refused"),
    "sends_a_document_slowly": isolated("refused", BOUNDED),
    "sends_pickles": isolated("refused"),
    "closes_descriptors": isolated(),
    "raises_a_pickle_bomb": isolated("refused", rule="build-raises"),
    "knob_that_is_a_trap": isolated(),
    "recipe_that_changes": isolated(shown="the recorded recipe is the one that trains, with at most 19 epochs"),
    "code_in_a_parameter_name": isolated("refused", rule="name"),
    "page_in_a_layer_name": isolated("refused", rule="name"),
    "graph_that_reads_a_file": isolated("refused", rule="operator"),
    "graph_that_calls_python": isolated("refused"),
    "graph_that_writes_on_its_weights": isolated("refused"),
    # --- isolation: files
    "writes_into_site_packages": isolated("harmless", TWIN),
    "writes_into_torchs_cache": isolated("harmless", TWIN),
    "writes_into_pycache": isolated("harmless", TWIN),
    "shadows_a_module": isolated("harmless", TWIN),
    "changes_the_users_files": isolated("harmless", TWIN),
    # --- counting: storage
    "seven_views_of_one_storage": counted(),
    "views_of_one_buffer": counted(),
    "seven_names_of_one_parameter": counted("harmless", "is one tensor after training", parameters=13_674),
    "windows_that_overlap": counted(),
    "expanded_weight": counted(),
    "swaps_weights_by_mode": counted(),
    "tie_that_opens": counted(),
    "brings_weights_when_scored": counted(),
    "grows_in_training": counted(),
    "grows_by_its_storage": counted(),
    "takes_the_images_storage": counted(),
    "takes_a_weights_storage": counted(),
    "reads_uninitialised_memory": counted(),
    "reads_memory_it_asked_for": counted(),
    # --- counting: parameters as a mailbox, state that moves
    "mailbox_for_labels": counted(rule="writes-on-weights"),
    "mailbox_without_writing": counted(rule="mailbox"),
    "mailbox_by_signs": counted(rule="mailbox"),
    "table_behind_a_corner_pixel": counted("harmless", COUNTED, parameters=11_780),
    "class_means_in_instance_norm": counted("harmless", COUNTED, parameters=1_483),
    "writes_by_its_gradient": counted(rule="mailbox"),
    "writes_images_on_a_weight": counted(),
    "momentum_as_memory": counted("harmless", COUNTED, parameters=8_634),
    "learns_twice_a_step": counted(rule="writes-on-weights"),
    "table_of_images": counted(),
    "class_means_as_state": counted(),
    "running_covariance": counted(),
    "table_behind_a_gate": counted("harmless", COUNTED, parameters=4_443),
    "batch_norm_as_a_table": counted(
        "harmless", "its statistics are counted, since what they hold is read as a table", parameters=12_174
    ),
    "class_means_in_batch_norm": counted(
        "harmless", "its statistics are counted: they are no feature maps", parameters=11_782
    ),
    "counter_as_a_clock": counted(rule="state"),
    "counters_that_hold_numbers": counted(
        "harmless", "each counter counts as two numbers, and they are less than patterns may have", parameters=17_112
    ),
    "statistics_in_double": counted(rule="parameters"),
    "spectral_norm_of_images": counted(),
    "table_named_ghost_norm": counted(),
    # --- counting: numbers that a count might miss
    "sizes_of_what_comes_from_images": counted(rule="parameters"),
    "slices_of_what_comes_from_images": counted(rule="parameters"),
    "numbers_in_paddings": counted(rule="parameters"),
    "order_of_operators": counted("harmless", "its 900 operators are within their limit", parameters=19_885),
    "order_of_a_permutation": counted("harmless", "its 60 orders count as numbers", parameters=19_193),
    "letters_of_einsum": counted("harmless", "its 60 formulas count as numbers", parameters=19_192),
    "weights_in_an_index_table": counted(),
    "weights_in_masks": counted(),
    "bits_in_ten_settings": counted("harmless", "each of its ten settings counts as two numbers", parameters=19_114),
    "two_weights_in_one_number": counted(
        "either", "counts one number for each, and those in its code", "mailbox", 19_309
    ),
    "halves_of_a_number": counted("harmless", COUNTED, parameters=12_874),
    "twenty_thousand_doubles": counted(rule="parameters"),
    # --- counting: other images of the batch
    "black_opens_the_batch": counted(rule="batch"),
    "white_opens_the_batch": counted(rule="batch"),
    "ink_opens_the_batch": counted(rule="batch"),
    "sureness_opens_the_batch": counted(rule="batch"),
    "many_kinds_open_the_batch": counted("harmless", "refused after training", "batch", 7_853),
    "near_neighbours_in_the_batch": counted(rule="batch"),
    "writes_on_real_images_only": counted(rule="writes-on-images"),
    "state_behind_real_black": counted(rule="state-change"),
    # --- home: written into the file
    "home_as_literals": brought(),
    "home_as_bytes": brought(),
    "home_as_four_bits": brought(),
    "home_as_one_long_integer": brought(),
    "home_in_a_knob": brought(),
    "home_in_its_docstring": brought(),
    "home_in_its_comments": brought(),
    "home_in_its_recipe": brought("either", LIMITED),
    "home_from_a_package": brought("harmless", "finds nothing: starts as a plain linear layer", parameters=7_850),
    "home_from_torchs_hub": brought("harmless", "finds nothing: starts at random", parameters=961),
    # --- home: hidden in a start that looks random
    "home_by_chosen_seeds": brought(),
    "home_by_global_seeds": brought(),
    "home_by_seeds_of_numpy": brought(),
    "home_by_seeds_of_python": brought(),
    "home_by_chaos": brought(),
    "home_by_fill": brought(),
    "home_by_narrow_draws": brought(),
    "home_by_normal_draws": brought(),
    "home_by_runs_of_ones": brought(),
    "home_by_ranks_of_noise": brought(),
    "home_under_noise": brought(),
    "home_minus_its_noise": brought(),
    "home_shuffled": brought(),
    "home_rescaled": brought(),
    "picks_the_best_of_many_draws": brought(),
    "trains_on_digits_it_draws": brought(),
    # --- home: never trained here
    "home_as_literals_in_forward": brought(),
    "home_in_a_buffer": brought(),
    "home_in_a_transient_buffer": brought(),
    "home_in_a_frozen_parameter": brought(),
    "home_in_whole_numbers": brought(),
    "home_in_masks_of_infinities": brought(),
    "home_by_slices_in_forward": brought(),
    "home_in_free_settings": brought(rule="trained-start"),
    "home_by_selects_of_a_weight": brought(rule="trained-start"),
    "home_by_axes_of_flips": brought(),
    "home_by_axes_of_transposes": brought(),
    "home_by_expansions_of_features": brought(),
    "home_by_references": brought(),
    "home_by_selects_behind_a_gate": brought(),
    "home_by_shapes_in_the_start": brought(),
    "home_by_shapes_without_elements": brought(),
    "home_by_sizes_of_expansions": brought(),
    "home_by_sums_of_sizes": brought(),
    "order_of_settings": brought(),
}
