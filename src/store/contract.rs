//! What every store does, whatever it is made of: the same tests for each.

mod changes;
mod jobs;
mod members;
mod power;
mod random;
mod refusals;
mod world;

/// Runs the whole contract against a fixture.
macro_rules! contract {
    ($fixture:expr; $($area:ident { $($test:ident),* $(,)? })*) => {
        $(mod $area {
            #[allow(unused_imports)]
            use super::*;
            $(#[test]
            fn $test() {
                $crate::store::contract::$area::$test($crate::store::contract::world::World::new($fixture));
            })*
        })*
    };
    ($fixture:expr) => {
        $crate::store::contract::contract! {
            $fixture;
            changes {
                a_change_lives_from_prepared_to_hardened,
                commit_and_cancel_exclude_each_other,
                commit_checks_term_then_state_then_membership_then_generation,
                hardening_takes_the_earlier_ones_along,
                segments_are_merged_and_found,
                the_old_home_is_in_quarantine_until_nobody_can_use_it,
                numbers_are_never_given_twice,
                handles_see_each_other_at_once,
                events_are_numbered_and_paged,
                deeds_are_recorded_when_they_begin_and_when_they_end,
                labels_only_get_higher_numbers,
            }
            refusals {
                a_lower_term_changes_nothing,
                extents_that_somebody_has_are_refused,
                what_does_not_fit_the_table_is_refused,
                malformed_differences_are_refused,
                a_change_that_no_longer_fits_is_not_committed,
            }
            jobs {
                a_job_reserves_its_destination_and_uses_it_up,
                replaced_steps_free_what_they_do_not_ask_for,
                job_states_are_compared_and_set,
                a_refused_job_leaves_nothing_behind,
                only_the_step_that_a_segment_continues_moves_on,
                a_job_that_ends_owns_nothing,
                what_is_removed_takes_its_jobs_along,
            }
            members {
                slots_and_lives,
                a_living_namesake_is_refused_and_a_dead_one_replaced,
                a_full_table_makes_room_for_the_living,
                fencing_is_by_life,
                joining_gives_the_whole_table,
                joining_after_reading_gives_what_has_changed_since,
            }
            power {
                every_edit_is_taken_back,
                changes_are_taken_back_latest_first,
                a_kept_place_is_had_back_until_its_change_is_hardened,
                a_change_that_had_a_kept_place_back_is_taken_back,
                what_was_prepared_or_joined_is_over,
                a_job_goes_back_with_its_chunks,
                a_job_that_was_done_goes_on,
                a_cancelled_job_gets_nothing_back,
                joining_first_takes_back,
                reservations_on_a_disk_that_goes_away_go_with_it,
                options_survive,
            }
        }
    };
}
pub(crate) use contract;
pub(crate) use world::new_job;

mod sqlite {
    use super::world::Sqlite;
    contract!(Box::new(Sqlite::new()));
}

mod memory {
    use super::world::Memory;
    contract!(Box::new(Memory::new()));
}
