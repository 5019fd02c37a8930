//! Values in bf16: what only products in bf16 read again is kept so, on a GPU of what norms and activations make, which
//! halves what the backward pass reads. An operation that has no loop of its own for such a value takes it
//! [`Value::widened`].

use candle_core::{DType, Result};

use super::cpu;
use super::tape::Value;

impl Value {
    /// The same numbers as products read them: rounded to bf16, and kept so on the CPU, where products are in bf16. The
    /// gradient passes as it is.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn as_operand(&self) -> Result<Value> {
        let x = self.tensor();
        let y = match x.dtype() {
            _ if self.products() != DType::BF16 || !x.device().is_cpu() => return Ok(self.clone()),
            DType::BF16 => return Ok(self.clone()),
            DType::F32 => cpu::to_bf16(x)?,
            _ => cpu::rounded(x)?,
        };
        let of_input = self.grad();
        Ok(Value::record(y, &[self], move |grad| of_input.add(grad)))
    }

    /// The same numbers in f32, where they are kept in bf16.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn widened(&self) -> Result<Value> {
        let x = self.tensor();
        if x.dtype() != DType::BF16 {
            return Ok(self.clone());
        }
        let wide = if x.device().is_cpu() { cpu::to_f32(x)? } else { x.to_dtype(DType::F32)? };
        let of_input = self.grad();
        Ok(Value::record(wide, &[self], move |grad| of_input.add(grad)))
    }

    /// The same value, whose gradient is rounded to bf16 where there are no kernels: what [`super::linear`]'s kernels
    /// leave before an activation, for comparison in f64.
    pub(super) fn with_rounded_gradient(&self) -> Value {
        if !self.tensor().device().is_cpu() {
            return self.clone();
        }
        let of_input = self.grad();
        Value::record(self.tensor().clone(), &[self], move |grad| of_input.add(cpu::rounded(&grad)?))
    }
}
