//! Round trips of strings through tensors of the real library.

#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside a #[test]")]

use std::path::Path;

use batchfleet_ort_strings::{Strings, read, tensor};
use ort::{
    memory::Allocator,
    value::{DynTensor, DynValue, Tensor, TensorElementType},
};
use proptest::prelude::*;

/// Loads the library, once per process.
fn load_library() {
    static LOADED: std::sync::Once = std::sync::Once::new();
    LOADED.call_once(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let usual = root.join(".cache/onnxruntime/libonnxruntime.so");
        let library = std::env::var_os("ORT_DYLIB_PATH").map_or(usual, Into::into);
        let environment = ort::init_from(&library).unwrap().with_telemetry(false).build().unwrap();
        // The library stays loaded until the process ends.
        std::mem::forget(environment);
    });
}

fn round_trip(shape: &[i64], strings: &[Vec<u8>]) -> Vec<Vec<u8>> {
    load_library();
    let value = tensor(shape.to_vec(), strings).unwrap().into_dyn();
    let (read_shape, read) = read(&value).unwrap();
    assert_eq!(&read_shape[..], shape);
    assert_eq!(read.total_bytes(), strings.iter().map(Vec::len).sum::<usize>());
    read.iter().map(<[u8]>::to_vec).collect()
}

#[test]
fn nul_invalid_utf8_and_empty_strings_are_kept() {
    let jpeg = [0xff, 0xd8, 0xff, 0xe0, 0, 0x10, b'J', b'F', b'I', b'F', 0];
    let strings = [&b""[..], b"\0", b"a\0b", &jpeg, "ö".as_bytes(), b"\0\0", b""];
    let strings = strings.map(<[u8]>::to_vec);
    assert_eq!(round_trip(&[7], &strings), strings);
}

#[test]
fn tensors_without_elements_and_scalars_are_kept() {
    assert_eq!(round_trip(&[0], &[]), Vec::<Vec<u8>>::new());
    assert_eq!(round_trip(&[3, 0, 2], &[]), Vec::<Vec<u8>>::new());
    assert_eq!(round_trip(&[], &[b"one".to_vec()]), [b"one".to_vec()]);
}

#[test]
fn a_hundred_thousand_strings_of_every_byte_are_kept() {
    let strings: Vec<Vec<u8>> =
        (0..100_000_usize).map(|n| n.to_le_bytes()[..n % 5].to_vec()).collect();
    assert_eq!(round_trip(&[100, 1000], &strings), strings);
}

#[test]
fn a_string_of_many_megabytes_is_kept() {
    let strings = [(0..=255).cycle().take(32 << 20).collect(), b"end".to_vec()];
    assert!(round_trip(&[2], &strings) == strings);
}

#[test]
fn strings_that_do_not_fill_the_shape_are_refused() {
    load_library();
    for (shape, count) in [(&[2][..], 1), (&[1], 2), (&[0], 1), (&[-1], 1), (&[i64::MAX, 2], 0)] {
        let error = tensor(shape.to_vec(), &vec!["x"; count]).unwrap_err();
        assert!(error.to_string().contains("do not fill shape"), "{error}");
    }
}

#[test]
fn strings_of_the_safe_wrapper_are_read() {
    load_library();
    let value = Tensor::from_string_array(([2_usize], &["a", "bc"][..])).unwrap().into_dyn();
    assert_eq!(strings(&value), [b"a".to_vec(), b"bc".to_vec()]);
    let kind = TensorElementType::String;
    let unset = DynTensor::new(&Allocator::default(), kind, [2_i64]).unwrap().into_dyn();
    assert_eq!(strings(&unset), [b"".to_vec(), b"".to_vec()]);
}

fn strings(value: &DynValue) -> Vec<Vec<u8>> {
    let (_, strings): (_, Strings) = read(value).unwrap();
    strings.iter().map(<[u8]>::to_vec).collect()
}

#[test]
fn a_tensor_of_numbers_is_refused() {
    load_library();
    let value = Tensor::from_array(([1_i64], vec![1.0_f32])).unwrap().into_dyn();
    let error = read(&value).unwrap_err().to_string();
    assert!(error.contains("is not a tensor of strings"), "{error}");
}

proptest! {
    #[test]
    fn any_strings_are_kept(
        strings in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..40)
    ) {
        let count = i64::try_from(strings.len()).unwrap();
        prop_assert_eq!(round_trip(&[count, 1], &strings), strings);
    }
}
