//! The program's own word on the custom resource is what is committed.

use std::{path::Path, process::Command};

#[test]
fn the_committed_definition_is_what_the_types_say() {
    let printed =
        Command::new(env!("CARGO_BIN_EXE_batchfleet-controller")).arg("crd").output().unwrap();
    assert!(printed.status.success(), "{printed:?}");
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../helm/batchfleet/crds/modelfleets.yaml");
    let committed = std::fs::read(path).unwrap();
    assert!(
        committed == printed.stdout,
        "run `cargo run -p batchfleet-controller -- crd > helm/batchfleet/crds/modelfleets.yaml`"
    );
}
