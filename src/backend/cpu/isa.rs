//! Instruction sets, detected once at run time.

use crate::error::{Error, Result};

/// Environment variable that restricts the instruction sets: `portable`, `avx2`, `avxvnni`,
/// `avx512`, `amx`, `neon`, `dotprod`.
pub const ISA_VAR: &str = "GRISTMILL_CPU_ISA";

/// A ceiling on instruction sets. Those of another architecture than the one it names are cut by
/// `Portable` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every processor of the target has.
    Portable,
    /// On x86-64: AVX2, FMA and F16C at most.
    Avx2,
    /// On x86-64: AVX2 and AVX-VNNI at most.
    AvxVnni,
    /// On AArch64: NEON without extensions.
    Neon,
    /// On AArch64: NEON with SDOT at most.
    Dotprod,
    /// On x86-64: AVX-512 with VNNI, VBMI and GFNI, BF16 and FP16 at most.
    Avx512,
    /// No ceiling: AMX, NEON with I8MM and BF16 where present.
    Amx,
}

impl Level {
    /// The word that `GRISTMILL_CPU_ISA` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::AvxVnni => "avxvnni",
            Level::Neon => "neon",
            Level::Dotprod => "dotprod",
            Level::Avx512 => "avx512",
            Level::Amx => "amx",
        }
    }
}

/// What kernels may use. A flag is set only if the flags it builds on are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Isa {
    /// x86-64: AVX2, FMA and F16C.
    pub avx2: bool,
    /// x86-64: AVX-VNNI, dot products of bytes in 256 bits (and `avx2`).
    pub avx_vnni: bool,
    /// x86-64: AVX-512 F, BW, DQ, VL (and `avx2`).
    pub avx512: bool,
    /// x86-64: AVX-512 VNNI (and `avx512`).
    pub avx512_vnni: bool,
    /// x86-64: AVX-512 VBMI and GFNI (and `avx512_vnni`).
    pub avx512_bits: bool,
    /// x86-64: AVX-512 BF16 (and `avx512`).
    pub avx512_bf16: bool,
    /// x86-64: dot products of bf16 are faster than f32 multiply-adds (and `avx512_bf16`).
    pub avx512_bf16_pays: bool,
    /// x86-64: AVX-512 FP16 (and `avx512`).
    pub avx512_fp16: bool,
    /// x86-64: AMX tiles of bf16 and of bytes, which the operating system lets this process use
    /// (and `avx512_bits` and `avx512_bf16`).
    pub amx: bool,
    /// AArch64: NEON.
    pub neon: bool,
    /// AArch64: SDOT, UDOT (and `neon`).
    pub dotprod: bool,
    /// AArch64: SMMLA, USDOT (and `dotprod`).
    pub i8mm: bool,
    /// AArch64: BFDOT, BFMMLA (and `neon`).
    pub bf16: bool,
    /// wasm32: 128-bit SIMD.
    pub simd128: bool,
}

impl Isa {
    /// What this machine has.
    pub fn detect() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            let avx512 =
                avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
            let avx512_vnni = avx512 && has!("avx512vnni");
            let avx512_bits = avx512_vnni && has!("avx512vbmi") && has!("gfni");
            let avx512_bf16 = avx512 && has!("avx512bf16");
            Isa {
                avx2,
                avx_vnni: avx2 && has!("avxvnni"),
                avx512,
                avx512_vnni,
                avx512_bits,
                avx512_bf16,
                avx512_bf16_pays: avx512_bf16 && !is_intel(),
                avx512_fp16: avx512 && has!("avx512fp16"),
                amx: avx512_bits && avx512_bf16 && super::simd::amx::is_usable(),
                ..Isa::default()
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            use std::arch::is_aarch64_feature_detected as has;
            let neon = has!("neon");
            let dotprod = neon && has!("dotprod");
            Isa {
                neon,
                dotprod,
                i8mm: dotprod && has!("i8mm"),
                bf16: neon && has!("bf16"),
                ..Isa::default()
            }
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            Isa {
                simd128: cfg!(target_feature = "simd128"),
                ..Isa::default()
            }
        }
    }

    /// What this machine has, below the ceiling that `GRISTMILL_CPU_ISA` names.
    pub fn from_env() -> Result<Isa> {
        match std::env::var(ISA_VAR) {
            Ok(word) => Ok(Isa::detect().masked(parse(&word)?)),
            Err(std::env::VarError::NotPresent) => Ok(Isa::detect()),
            Err(std::env::VarError::NotUnicode(word)) => {
                parse(&word.to_string_lossy()).map(|level| Isa::detect().masked(level))
            }
        }
    }

    /// These sets below a ceiling.
    pub fn masked(self, ceiling: Level) -> Isa {
        match ceiling {
            Level::Portable => Isa::default(),
            Level::Avx2 => Isa {
                avx_vnni: false,
                ..self.masked(Level::AvxVnni)
            },
            Level::AvxVnni => Isa {
                avx512: false,
                avx512_vnni: false,
                avx512_bits: false,
                avx512_bf16: false,
                avx512_bf16_pays: false,
                avx512_fp16: false,
                ..self.masked(Level::Avx512)
            },
            Level::Avx512 => Isa { amx: false, ..self },
            Level::Neon => Isa {
                dotprod: false,
                i8mm: false,
                bf16: false,
                ..self
            },
            Level::Dotprod => Isa {
                i8mm: false,
                bf16: false,
                ..self
            },
            Level::Amx => self,
        }
    }

    /// Words for people and logs.
    pub fn words(self) -> Vec<String> {
        [
            (self.avx2, "avx2+fma+f16c"),
            (self.avx_vnni, "avxvnni"),
            (self.avx512, "avx512f+bw+dq+vl"),
            (self.avx512_vnni, "avx512vnni"),
            (self.avx512_bits, "avx512vbmi+gfni"),
            (self.avx512_bf16, "avx512bf16"),
            (self.avx512_fp16, "avx512fp16"),
            (self.amx, "amx"),
            (self.neon, "neon"),
            (self.dotprod, "dotprod"),
            (self.i8mm, "i8mm"),
            (self.bf16, "bf16"),
            (self.simd128, "simd128"),
        ]
        .into_iter()
        .filter(|(has, _)| *has)
        .map(|(_, word)| word.to_owned())
        .collect()
    }
}

/// Of Intel's processors all so far run dot products of bf16 at half the rate of f32 multiply-adds.
#[cfg(target_arch = "x86_64")]
fn is_intel() -> bool {
    let id = std::arch::x86_64::__cpuid(0);
    [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
}

fn parse(word: &str) -> Result<Level> {
    let levels = [
        Level::Portable,
        Level::Avx2,
        Level::AvxVnni,
        Level::Neon,
        Level::Dotprod,
        Level::Avx512,
        Level::Amx,
    ];
    levels
        .into_iter()
        .find(|level| level.name().eq_ignore_ascii_case(word.trim()))
        .ok_or_else(|| {
            let words = levels.map(Level::name).join(", ");
            Error::Selection(format!("{ISA_VAR} is {word:?}; expected one of {words}"))
        })
}

/// Defines `$name(isa, args..)`, which runs the `#[inline(always)]` generic `$body::<FMA>(args..)`
/// compiled for the best instruction sets of `isa`. `FMA` tells the body whether
/// `f32::mul_add` is one instruction; without it, `mul_add` is a slow library call.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident = $body:ident ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?) => {
        $(#[$meta])*
        $vis fn $name(isa: $crate::backend::cpu::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    $body::<true>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma,f16c")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    $body::<true>($($arg),*)
                }
                if isa.avx512 {
                    // SAFETY: the flag says that this machine has these instruction sets.
                    return unsafe { avx512($($arg),*) };
                }
                if isa.avx2 {
                    // SAFETY: as above.
                    return unsafe { avx2($($arg),*) };
                }
            }
            if cfg!(target_arch = "aarch64") && isa.neon {
                return $body::<true>($($arg),*);
            }
            $body::<false>($($arg),*)
        }
    };
}
pub(crate) use multiversion;

/// `a * b + c`, fused where that is one instruction.
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings() {
        let all = Isa::detect();
        assert_eq!(all.masked(Level::Amx), all);
        assert_eq!(all.masked(Level::Portable), Isa::default());
        let x86 = Isa {
            avx2: true,
            avx_vnni: true,
            avx512: true,
            avx512_vnni: true,
            avx512_bits: true,
            avx512_bf16: true,
            avx512_fp16: true,
            amx: true,
            ..Isa::default()
        };
        assert_eq!(x86.masked(Level::Avx2).words(), ["avx2+fma+f16c"]);
        assert_eq!(
            x86.masked(Level::AvxVnni).words(),
            ["avx2+fma+f16c", "avxvnni"]
        );
        assert!(!x86.masked(Level::Avx512).amx && x86.masked(Level::Avx512).avx512_bf16);
        assert_eq!(x86.masked(Level::Dotprod), x86);
        let arm = Isa {
            neon: true,
            dotprod: true,
            i8mm: true,
            bf16: true,
            ..Isa::default()
        };
        assert_eq!(arm.masked(Level::Avx2), arm);
        assert_eq!(arm.masked(Level::Neon).words(), ["neon"]);
        assert_eq!(arm.masked(Level::Dotprod).words(), ["neon", "dotprod"]);
        assert_eq!(parse(" AVX2").unwrap(), Level::Avx2);
        assert!(parse("sse9").unwrap_err().to_string().contains("portable"));
    }

    #[test]
    fn the_machine_is_the_one_that_was_asked_for() {
        // An emulated one is; see `.ci/neon`.
        if let Ok(words) = std::env::var("GRISTMILL_EXPECT_ISA") {
            assert_eq!(Isa::detect().words().join(","), words);
        }
    }
}
