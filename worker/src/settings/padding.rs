//! Settings that declare padding for models whose configs do not.

use std::collections::BTreeMap;

use clap::Args;

use crate::padding::{CUT, PAD, SIZES};

/// How requests of different lengths are padded.
#[derive(Args, Clone, Debug, Default)]
pub struct PaddingSettings {
    /// Dimensions of the inputs that are filled up at their end, so that requests of different
    /// lengths share a batch: `INPUT:DIMENSION=VALUE`, such as `input_ids:1=0`, or `NAME=VALUE` with
    /// a name that the model's file gives a dimension; repeatable, or separated by commas. For
    /// workers of one model: a model that lacks the inputs is refused. A `config.pbtxt` with the
    /// parameter `pad` takes precedence
    #[arg(long, env = "BATCHFLEET_PAD", value_name = "PLACE=VALUE", value_delimiter = ',')]
    pub pad: Vec<String>,

    /// Lengths to which requests are padded [default: the longest request of a batch]
    #[arg(
        long,
        env = "BATCHFLEET_PAD_SIZES",
        value_name = "LENGTH",
        value_delimiter = ',',
        requires = "pad"
    )]
    pub pad_sizes: Vec<u64>,

    /// Outputs that follow the length, `OUTPUT:DIMENSION`: they are cut back to the length of each
    /// request; repeatable, or separated by commas
    #[arg(
        long,
        env = "BATCHFLEET_CUT",
        value_name = "OUTPUT:DIMENSION",
        value_delimiter = ',',
        requires = "pad"
    )]
    pub cut: Vec<String>,
}

impl PaddingSettings {
    /// The parameters that declare the padding of a model whose config has the parameters `config`.
    pub(crate) fn parameters(&self, config: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let is_in_config =
            [PAD, SIZES, CUT].iter().any(|&parameter| config.contains_key(parameter));
        if is_in_config || self.pad.is_empty() {
            return config.clone();
        }
        let sizes: Vec<String> = self.pad_sizes.iter().map(u64::to_string).collect();
        let own = [(PAD, &self.pad), (SIZES, &sizes), (CUT, &self.cut)];
        own.into_iter()
            .map(|(parameter, values)| (parameter.to_owned(), values.join(" ")))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        padding: PaddingSettings,
    }

    fn parameters(flags: &[&str], config: &[(&str, &str)]) -> Vec<String> {
        let flags = Flags::try_parse_from(["worker"].iter().chain(flags)).unwrap();
        let config =
            config.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let parameters = flags.padding.parameters(&config);
        parameters.into_iter().map(|(key, value)| format!("{key}: {value}")).collect()
    }

    #[test]
    fn the_flags_pad_models_whose_configs_say_nothing_about_padding() {
        let flags =
            ["--pad", "ids:1=0", "--pad=mask:1=0,kinds:1=0", "--pad-sizes=16,32", "--cut=out:1"];
        let own = ["cut: out:1", "pad: ids:1=0 mask:1=0 kinds:1=0", "pad_sizes: 16 32"];
        assert_eq!(parameters(&flags, &[("row_ms", "2")]), own);
        assert_eq!(parameters(&flags, &[("pad", "x:1=0")]), ["pad: x:1=0"]);
        assert_eq!(parameters(&[], &[("cut", "y:1")]), ["cut: y:1"]);
    }

    #[test]
    fn sizes_and_cuts_need_padding() {
        for flag in ["--pad-sizes=16", "--cut=out:1"] {
            assert!(Flags::try_parse_from(["worker", flag]).is_err(), "{flag}");
        }
    }
}
