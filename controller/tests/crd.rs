//! Checks that the committed custom resource definition is what the program prints.

use std::{path::Path, process::Command};

#[test]
fn the_committed_definition_follows_from_the_types() {
    let printed =
        Command::new(env!("CARGO_BIN_EXE_batchfleet-controller")).arg("crd").output().unwrap();
    assert!(printed.status.success(), "{printed:?}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../helm/batchfleet/charts/crds/crds/modelfleets.yaml");
    let committed = std::fs::read(path).unwrap();
    assert!(committed == printed.stdout, "run `make chart`");
}
