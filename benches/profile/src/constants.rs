//! The constants in the general registers, as far as the executed code itself sets them.

use iced_x86::{Code, Instruction, InstructionInfoFactory, OpAccess, OpKind, Register};

/// The values that the registers are known to have.
pub struct Constants {
    values: [Option<u64>; 16],
    factory: InstructionInfoFactory,
}

impl Constants {
    /// Begins without a known value.
    #[must_use]
    pub fn new() -> Self {
        Self {
            values: [None; 16],
            factory: InstructionInfoFactory::new(),
        }
    }

    /// The low half of a register, if it is known.
    #[must_use]
    pub fn low(&self, register: Register) -> Option<u32> {
        self.values[index(register)?].map(|value| value as u32)
    }

    /// Forgets all values, because other code has run.
    pub fn forget(&mut self) {
        self.values = [None; 16];
    }

    /// Follows the next executed instruction.
    pub fn execute(&mut self, instruction: &Instruction) {
        let known = self.result(instruction);
        for used in self.factory.info(instruction).used_registers() {
            let writes = matches!(
                used.access(),
                OpAccess::Write
                    | OpAccess::CondWrite
                    | OpAccess::ReadWrite
                    | OpAccess::ReadCondWrite
            );
            if writes && let Some(index) = index(used.register()) {
                self.values[index] = None;
            }
        }
        if let Some(value) = known
            && let Some(index) = index(instruction.op0_register())
        {
            self.values[index] = Some(value);
        }
    }

    /// What the instruction makes of its first operand, if that is known. A move of 32 bits
    /// clears the upper half.
    fn result(&self, it: &Instruction) -> Option<u64> {
        let source = || self.values[index(it.op1_register())?];
        match it.code() {
            Code::Mov_r32_imm32 | Code::Mov_rm32_imm32 if it.op0_kind() == OpKind::Register => {
                Some(it.immediate32().into())
            }
            Code::Mov_r64_imm64 => Some(it.immediate64()),
            Code::Mov_rm64_imm32 if it.op0_kind() == OpKind::Register => {
                Some(it.immediate32to64() as u64)
            }
            Code::Mov_r32_rm32 | Code::Mov_rm32_r32
                if it.op0_kind() == OpKind::Register && it.op1_kind() == OpKind::Register =>
            {
                Some(source()? & u64::from(u32::MAX))
            }
            Code::Mov_r64_rm64 | Code::Mov_rm64_r64
                if it.op0_kind() == OpKind::Register && it.op1_kind() == OpKind::Register =>
            {
                source()
            }
            Code::Xor_r32_rm32 | Code::Xor_rm32_r32 | Code::Xor_r64_rm64 | Code::Xor_rm64_r64
                if it.op0_kind() == it.op1_kind() && it.op0_register() == it.op1_register() =>
            {
                Some(0)
            }
            _ => None,
        }
    }
}

/// The place of a general register, whatever part of it is named.
fn index(register: Register) -> Option<usize> {
    let full = register.full_register();
    full.is_gpr64().then(|| full.number())
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions};

    use super::*;

    /// What is known of ECX after some code.
    fn after(code: &[u8]) -> Option<u32> {
        let mut constants = Constants::new();
        for instruction in Decoder::new(64, code, DecoderOptions::NONE).iter() {
            constants.execute(&instruction);
        }
        constants.low(Register::ECX)
    }

    #[test]
    fn constants_pass_through_registers() {
        // mov $0x48, %edi; mov %edi, %ecx
        assert_eq!(after(&[0xbf, 0x48, 0, 0, 0, 0x89, 0xf9]), Some(0x48));
        // mov $-1, %rcx
        assert_eq!(
            after(&[0x48, 0xc7, 0xc1, 0xff, 0xff, 0xff, 0xff]),
            Some(u32::MAX)
        );
        // xor %ecx, %ecx
        assert_eq!(after(&[0x31, 0xc9]), Some(0));
    }

    #[test]
    fn other_results_are_unknown() {
        assert_eq!(after(&[]), None);
        let known = [0xb9, 1, 0, 0, 0];
        assert_eq!(after(&known), Some(1));
        // inc %ecx; mov (%rax), %ecx; mov %edi, %ecx; mov $2, %cl; pop %rcx
        for code in [
            &[0xff, 0xc1][..],
            &[0x8b, 0x08],
            &[0x89, 0xf9],
            &[0xb1, 2],
            &[0x59],
        ] {
            assert_eq!(after(&[&known, code].concat()), None, "{code:x?}");
        }
    }
}
