//! Contract of every store, whatever its implementation: the same tests for each.

mod changes;
mod jobs;
mod members;
mod power;
mod random;
mod refusals;
mod world;

/// Runs the whole contract with a fixture.
macro_rules! contract {
    ($fixture:expr; $($area:ident { $($test:ident),* $(,)? })*) => {
        $(mod $area {
            #[allow(unused_imports)]
            use super::*;
            $(#[test]
            fn $test() {
                match $fixture {
                    Some(fixture) => {
                        $crate::store::contract::$area::$test($crate::store::contract::world::World::new(Box::new(fixture)));
                    }
                    None => eprintln!("skipped: needs etcd"),
                }
            })*
        })*
    };
    ($fixture:expr) => {
        $crate::store::contract::contract! {
            $fixture;
            changes {
                a_change_lives_from_prepared_to_persisted,
                commit_and_cancel_exclude_each_other,
                commit_checks_term_then_state_then_membership_then_generation,
                persisting_requires_the_earlier_changes,
                segments_are_merged_and_found,
                the_old_placement_is_in_quarantine_until_no_apparatus_can_use_it,
                numbers_are_never_reused,
                handles_see_each_others_changes_at_once,
                events_are_numbered_and_paged,
                operations_are_recorded_when_they_begin_and_when_they_end,
                labels_only_get_higher_numbers,
            }
            refusals {
                a_lower_term_changes_nothing,
                owned_extents_are_refused,
                edits_that_do_not_fit_the_table_are_refused,
                malformed_deltas_are_refused,
                a_change_that_no_longer_fits_is_not_committed,
            }
            jobs {
                a_job_reserves_its_destination_and_uses_it_up,
                replaced_steps_free_destinations_that_they_do_not_need,
                job_states_are_compared_and_set,
                a_refused_job_leaves_nothing_behind,
                only_the_step_that_a_segment_continues_advances,
                a_job_that_ends_owns_nothing,
                removing_a_volume_or_disk_ends_its_jobs,
            }
            members {
                slots_and_incarnations,
                a_living_namesake_is_refused_and_a_dead_one_replaced,
                a_full_member_table_replaces_dead_members,
                fencing_is_by_incarnation,
                joining_gives_the_whole_table,
                joining_after_reading_gives_what_has_changed_since,
                members_name_their_node_and_port,
                nodes_are_recorded_once_for_each_machine,
                a_node_that_runs_apparatuses_is_not_removed,
            }
            power {
                every_edit_is_taken_back,
                changes_are_taken_back_latest_first,
                a_quarantined_area_can_be_mapped_again_until_its_change_is_persisted,
                a_change_that_mapped_a_quarantined_area_again_is_taken_back,
                prepared_changes_and_members_of_another_boot_end,
                a_job_goes_back_with_its_chunks,
                a_job_that_was_done_goes_on,
                a_cancelled_job_gets_nothing_back,
                joining_recovers_first,
                reservations_on_a_disk_that_is_taken_back_are_dropped,
                options_survive,
                another_nodes_epoch_ends_neither_members_nor_changes,
            }
        }
    };
}
pub(crate) use contract;

mod sqlite {
    use super::world::Sqlite;
    contract!(Some(Sqlite::new()));
}

mod memory {
    use super::world::Memory;
    contract!(Some(Memory::new()));
}

mod mirrored {
    use super::world::Mirrored;
    contract!(Some(Mirrored::in_memory()));
}

#[cfg(feature = "etcd")]
mod etcd_of_one {
    use super::world::Mirrored;
    contract!(Mirrored::in_etcd(1));
}

#[cfg(feature = "etcd")]
mod etcd_of_three {
    use super::world::Mirrored;
    contract!(Mirrored::in_etcd(3));
}
