//! The numbers of `runtime/launcher/tables.h` and `runtime/include/moec_abi.h` under their names there. A test reads both
//! headers.

macro_rules! numbers {
    ($($name:ident = $value:literal;)*) => {
        $(pub(super) const $name: u32 = $value;)*

        #[cfg(test)]
        const ALL: &[(&str, u32)] = &[$((stringify!($name), $value)),*];
    };
}

numbers! {
    OP_CONST = 0;
    OP_ADD = 1;
    OP_MUL = 2;
    OP_FLOOR = 3;
    OP_CEIL = 4;
    OP_HALF_EVEN = 5;
    OP_MIN = 6;
    OP_MAX = 7;
    OP_ALIGN = 8;

    ARG_PARAM = 0;
    ARG_PREPARED = 1;
    ARG_WORKSPACE = 2;
    ARG_I32 = 3;
    ARG_I64 = 4;

    IMAGE_CUBIN = 0;
    IMAGE_PTX = 1;

    CUT_TOKENS = 0;
    CUT_SEQUENCES = 1;
    CUT_NOWHERE = 2;

    MAX_VALUES = 2048;
    MAX_MAPS = 8;
    MAX_PARAMS = 64;

    MOEC_ABI_MAJOR = 1;
    MOEC_ABI_MINOR = 0;
    MOEC_CPU = 1;
    MOEC_CUDA_GPU = 2;
    MOEC_INPUT = 0;
    MOEC_OUTPUT = 1;
    MOEC_WEIGHT = 2;
}

/// No number: `NONE`.
pub(super) const NONE: u32 = u32::MAX;
/// `MOEC_ABI_VERSION`.
pub(super) const ABI_VERSION: u32 = MOEC_ABI_MAJOR << 16 | MOEC_ABI_MINOR;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use moec_runtime::package;

    use super::*;

    const TABLES: &str = include_str!("../../../runtime/launcher/tables.h");
    const ABI: &str = include_str!("../../../runtime/include/moec_abi.h");

    /// `enum { A, B }`: what its place says.
    fn enumerated(header: &str) -> BTreeMap<&str, u32> {
        let lists = header.split("typedef enum {").skip(1).filter_map(|rest| rest.split('}').next());
        lists.flat_map(|list| list.split(',').map(str::trim).zip(0..)).collect()
    }

    /// `#define A 1u`: what is a number.
    fn defined(header: &str) -> BTreeMap<&str, u32> {
        let words = header.lines().filter_map(|line| line.strip_prefix("#define ")?.split_once(' '));
        words.filter_map(|(name, rest)| Some((name, rest.split(' ').next()?.trim_end_matches('u').parse().ok()?))).collect()
    }

    #[test]
    fn they_are_those_of_the_headers() {
        let ours: BTreeMap<&str, u32> = ALL.iter().copied().collect();
        let mut launchers = enumerated(TABLES);
        launchers.extend(defined(TABLES));
        // Of these the package's format has the numbers.
        assert_eq!(launchers.remove("MAX_ARGS"), u32::try_from(package::PARAMS_MAX).ok());
        assert_eq!(launchers.remove("WORKSPACE_ALIGN"), u32::try_from(package::WORKSPACE_ALIGN).ok());
        let mut of_abi = defined(ABI);
        of_abi.retain(|name, _| ours.contains_key(name));
        assert!(launchers.len() > 20 && of_abi.len() > 5, "{launchers:?} {of_abi:?}");
        launchers.extend(of_abi);
        assert_eq!(ours, launchers);
        assert!(TABLES.contains("#define NONE UINT32_MAX\n"));
        assert!(ABI.contains("#define MOEC_ABI_VERSION ((MOEC_ABI_MAJOR << 16) | MOEC_ABI_MINOR)\n"));
    }
}
