//! The life of a head, event by event and state by state: the table that Linux's multipath driver
//! follows, row by row. What a row says of the kernel stands at its test. Where the kernel's outcome
//! is a fault (rows 7, 15, 16, 26, 28, 40, 41) the test shows ours, and the option that gives the
//! kernel's where a program could depend on it.
//!
//! Four things of the kernel have no counterpart here. A head is a handle, not a device node: it can
//! be had as soon as a namespace is known, so the state ALLOC is a head whose paths cannot be used. A
//! removal is scheduled in the moment in which the last path leaves, so there is no state LEAVING;
//! its rows begin with a controller that is lost and not given up yet. The module reference is a pin.
//! To unload the module is to shut the host down.

mod absent;
mod leaving;
mod live;
mod pending;
mod removing;
mod returning;
mod stage;

/// One test for each row, in the table's order.
macro_rules! rows {
    ($($module:ident: $($row:ident),+;)+) => {
        $($(
            #[test]
            fn $row() {
                $module::$row();
            }
        )+)+
    };
}

rows! {
    absent: row_01_a_namespace_makes_a_head, row_02_a_path_becomes_accessible,
        row_03_a_namespace_that_cannot_be_had_may_come_later,
        row_04_the_last_path_of_a_head_that_was_never_usable_leaves,
        row_05_another_path_joins_or_is_refused;
    live: row_06_a_reset_keeps_the_path, row_07_fast_io_fail_passes_on_every_controller,
        row_08_a_path_leaves_and_others_remain, row_09_the_last_path_leaves_without_a_window,
        row_10_the_last_path_leaves_with_a_window;
    leaving: row_11_the_window_is_opened_with_a_pin, row_12_no_pin_is_to_be_had,
        row_13_a_path_comes_while_the_last_one_leaves, row_14_the_window_is_closed_before_the_path_leaves,
        row_15_the_window_is_opened_after_the_path_has_left, row_16_two_paths_are_both_the_last;
    pending: row_17_the_time_is_up, row_18_the_removal_finds_no_path,
        row_19_the_removal_finds_a_path;
    returning: row_20_a_path_returns, row_21_a_path_returns_too_late,
        row_22_a_path_returns_before_the_timer_is_served, row_23_other_identifiers_return,
        row_24_the_identifiers_return_elsewhere, row_25_the_identifiers_return_in_another_subsystem,
        row_26_a_return_that_fails;
    pending: row_27_the_window_is_changed, row_28_the_window_is_set_to_zero,
        row_29_the_window_is_set_to_zero_and_back;
    live: row_30_the_window_is_set_while_live;
    pending: row_31_io_waits;
    removing: row_32_io_after_the_removal;
    pending: row_33_passthrough_never_waits, row_34_a_handle_can_be_had;
    removing: row_35_no_handle_can_be_had, row_36_nothing_stays_parked, row_37_the_last_handle_is_dropped;
    pending: row_38_the_host_cannot_be_shut_down, row_39_the_transport_is_not_held;
    live: row_40_a_controller_goes_for_good, row_41_the_target_deletes_the_namespace,
        row_42_a_reset_is_no_removal, row_43_a_private_namespace;
}
