//! Codebooks of the IQ formats: points packed to 16 bits, expanded at compile time.

pub(crate) mod iq1;
pub(crate) mod iq2_s;
pub(crate) mod iq2_xs;
pub(crate) mod iq2_xxs;
pub(crate) mod iq3_s;
pub(crate) mod iq3_xxs;

macro_rules! expand {
    ($name:ident, $t:ty) => {
        /// Points of `W` values from codes of `16 / W` bits, the first code in the low bits.
        const fn $name<const N: usize, const V: usize, const W: usize>(
            packed: &[u16; N],
            values: [$t; V],
        ) -> [[$t; W]; N] {
            let bits = 16 / W;
            let mut grid = [[0; W]; N];
            let mut i = 0;
            while i < N {
                let mut j = 0;
                while j < W {
                    grid[i][j] = values[packed[i] as usize >> (bits * j) & ((1 << bits) - 1)];
                    j += 1;
                }
                i += 1;
            }
            grid
        }
    };
}

expand!(expand_u8, u8);
expand!(expand_i8, i8);
