//! Whether this processor can run the kernels that were compiled in.
//!
//! Always holds: without the feature `simd` every processor can; with it, on x86-64, the C kernels are
//! compiled for Haswell, and nothing in this crate calls them before this check has succeeded.
//! Leaves to others: kernels chosen at run time.

/// The processor lacks an instruction set that this build uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this processor lacks {missing}, which this build needs: run a build without the feature `simd`, \
     or use a machine with AVX2"
)]
pub struct UnsupportedProcessor {
    missing: &'static str,
}

impl UnsupportedProcessor {
    /// The name of the first instruction set that is missing.
    pub const fn missing(&self) -> &'static str {
        self.missing
    }
}

/// Whether [`Coder`](crate::Coder) can work here. Programs call it at their start, to end with this
/// sentence instead of failing at the first upload.
pub fn check_processor() -> Result<(), UnsupportedProcessor> {
    first_missing(&required_sets())
}

fn first_missing(sets: &[(&'static str, bool)]) -> Result<(), UnsupportedProcessor> {
    match sets.iter().find(|(_, present)| !present) {
        Some((missing, _)) => Err(UnsupportedProcessor { missing }),
        None => Ok(()),
    }
}

// -march=haswell lets the C compiler use more than AVX2, so every set it may pick is asked for.
#[cfg(all(feature = "simd", target_arch = "x86_64"))]
fn required_sets() -> [(&'static str, bool); 7] {
    [
        ("AVX2", std::is_x86_feature_detected!("avx2")),
        ("BMI1", std::is_x86_feature_detected!("bmi1")),
        ("BMI2", std::is_x86_feature_detected!("bmi2")),
        ("FMA", std::is_x86_feature_detected!("fma")),
        ("LZCNT", std::is_x86_feature_detected!("lzcnt")),
        ("MOVBE", std::is_x86_feature_detected!("movbe")),
        ("POPCNT", std::is_x86_feature_detected!("popcnt")),
    ]
}

#[cfg(not(all(feature = "simd", target_arch = "x86_64")))]
const fn required_sets() -> [(&'static str, bool); 0] {
    []
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_missing_set_is_named_in_one_sentence() {
        let error = first_missing(&[("SSE2", true), ("AVX2", false), ("BMI2", false)]).unwrap_err();
        assert_eq!(error.missing(), "AVX2");
        assert_eq!(
            error.to_string(),
            "this processor lacks AVX2, which this build needs: run a build without the feature `simd`, \
             or use a machine with AVX2"
        );
    }

    #[test]
    #[cfg(not(feature = "simd"))]
    fn plain_kernels_run_on_every_processor() {
        assert_eq!(check_processor(), Ok(()));
    }
}
