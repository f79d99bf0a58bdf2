//! The enums of a config. Variants are in the order of their numbers, which start at 0, because a
//! text may contain the number instead of the name.

use serde::{Deserialize, Serialize};

/// Defines an enum. Its first variant is the default.
macro_rules! proto_enum {
    ($(#[$doc:meta])* $name:ident { $first:ident = $first_text:literal $(, $variant:ident = $text:literal)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub(crate) enum $name {
            #[default]
            #[serde(rename = $first_text)]
            $first,
            $(#[serde(rename = $text)] $variant,)*
        }
    };
}
pub(super) use proto_enum;

proto_enum!(
    /// `DataType`
    DataType {
        Invalid = "TYPE_INVALID",
        Bool = "TYPE_BOOL",
        Uint8 = "TYPE_UINT8",
        Uint16 = "TYPE_UINT16",
        Uint32 = "TYPE_UINT32",
        Uint64 = "TYPE_UINT64",
        Int8 = "TYPE_INT8",
        Int16 = "TYPE_INT16",
        Int32 = "TYPE_INT32",
        Int64 = "TYPE_INT64",
        Fp16 = "TYPE_FP16",
        Fp32 = "TYPE_FP32",
        Fp64 = "TYPE_FP64",
        String = "TYPE_STRING",
        Bf16 = "TYPE_BF16"
    }
);

proto_enum!(
    /// `ModelInput.Format`
    Format { None = "FORMAT_NONE", Nhwc = "FORMAT_NHWC", Nchw = "FORMAT_NCHW" }
);

proto_enum!(
    /// `ModelInstanceGroup.Kind`
    InstanceKind { Auto = "KIND_AUTO", Gpu = "KIND_GPU", Cpu = "KIND_CPU", Model = "KIND_MODEL" }
);

proto_enum!(
    /// `ModelInstanceGroup.SecondaryDevice.SecondaryDeviceKind`
    SecondaryDeviceKind { Nvdla = "KIND_NVDLA" }
);

proto_enum!(
    /// `BatchInput.Kind`
    BatchInputKind {
        ElementCount = "BATCH_ELEMENT_COUNT",
        AccumulatedElementCount = "BATCH_ACCUMULATED_ELEMENT_COUNT",
        AccumulatedElementCountWithZero = "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO",
        MaxElementCountAsShape = "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE",
        ItemShape = "BATCH_ITEM_SHAPE",
        ItemShapeFlatten = "BATCH_ITEM_SHAPE_FLATTEN"
    }
);

proto_enum!(
    /// `BatchOutput.Kind`
    BatchOutputKind { ScatterWithInputShape = "BATCH_SCATTER_WITH_INPUT_SHAPE" }
);
