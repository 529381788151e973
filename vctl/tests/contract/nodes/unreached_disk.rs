//! A disk that one of the nodes does not reach.

use super::VOLUME;
use super::moving::Shared;
use std::fs;

#[test]
fn a_disk_that_one_node_does_not_reach_is_named_with_the_node() {
    let Some(mut shared) = Shared::new() else { return };
    if !shared.lose_last_view() {
        return;
    }
    let one = &shared.scene.one;
    let refused = one.run(["volume", "move", VOLUME, "--to", "d2"]);
    assert_ne!(refused.status, 0);
    for word in ["a2 on node n2", "disk d2"] {
        assert!(refused.err.contains(word), "{refused:?}");
    }
    // The others serve what they have, and the one that lacks the disk says so.
    let [here, there] = shared.volumes.each_ref().map(|path| fs::read(path).unwrap());
    assert_eq!(here, there);
    let status = one.run(["status"]);
    assert!(
        status.out.contains("disk d2") || status.out.contains("job"),
        "{status:?}"
    );
}
