//! Disks without a mapping: replies come from a buffer.

use super::*;

#[test]
fn reads_and_writes_are_whole_on_a_disk_without_a_mapping_that_does_them_in_parts() {
    let (mut rig, faults) = Rig::faulty(limits());
    for faults in faults {
        faults.set([Rule::always(On::Any, Fault::Short(3001))]);
    }
    let bytes: Vec<u8> = (0..3 * EXTENT).map(|n| (n % 253) as u8).collect();
    rig.write(1, EXTENT / 2, &bytes);
    assert_eq!(rig.answer(1), Received::Written(bytes.len() as u64));
    rig.read(2, EXTENT / 2, bytes.len() as u64);
    assert_eq!(rig.answer(2), Received::Data(bytes.clone()));
    rig.read(3, EXTENT, 4096);
    let at = (EXTENT / 2) as usize;
    assert_eq!(rig.answer(3), Received::Data(bytes[at..at + 4096].to_vec()));
    let at = VolumeOffset(EXTENT);
    rig.ask(
        4,
        Operation::Zero {
            at,
            len: 4096,
            punch: true,
            clip: false,
        },
    );
    assert_eq!(rig.answer(4), Received::Done);
    rig.read(5, EXTENT, 4096);
    assert_eq!(rig.answer(5), Received::Data(vec![0; 4096]));
}
