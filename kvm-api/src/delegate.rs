//! Calls that a backend leaves to the one it is built upon.

/// Methods of [`Kvm`](crate::Kvm), each handed on to the same method of a field.
macro_rules! delegate {
    ($field:ident: $($name:ident)+) => {
        $(delegate! { @$name $field })+
    };
    (@kvm_create_vm $field:ident) => {
        #[inline]
        fn kvm_create_vm(&self) -> Result<OwnedFd> {
            self.$field.kvm_create_vm()
        }
    };
    (@kvm_get_msr_index_list $field:ident) => {
        #[inline]
        fn kvm_get_msr_index_list(&self, fd: BorrowedFd<'_>, list: &mut MsrList) -> Result<()> {
            self.$field.kvm_get_msr_index_list(fd, list)
        }
    };
    (@kvm_get_vcpu_mmap_size $field:ident) => {
        #[inline]
        fn kvm_get_vcpu_mmap_size(&self, fd: BorrowedFd<'_>) -> Result<usize> {
            self.$field.kvm_get_vcpu_mmap_size(fd)
        }
    };
    (@kvm_set_memory_region $field:ident) => {
        #[inline]
        fn kvm_set_memory_region(
            &self,
            vm: BorrowedFd<'_>,
            slot: u32,
            flags: u32,
            guest_phys_addr: u64,
            size: u64,
        ) -> Result<()> {
            self.$field
                .kvm_set_memory_region(vm, slot, flags, guest_phys_addr, size)
        }
    };
    (@kvm_create_vcpu $field:ident) => {
        #[inline]
        fn kvm_create_vcpu(&self, vm: BorrowedFd<'_>) -> Result<OwnedFd> {
            self.$field.kvm_create_vcpu(vm)
        }
    };
    (@kvm_get_dirty_log $field:ident) => {
        #[inline]
        unsafe fn kvm_get_dirty_log(
            &self,
            vm: BorrowedFd<'_>,
            slot: u32,
            dirty_bitmap: &mut [u64],
        ) -> Result<()> {
            // SAFETY: the caller answers for the same.
            unsafe { self.$field.kvm_get_dirty_log(vm, slot, dirty_bitmap) }
        }
    };
    (@kvm_get_memory_alias $field:ident) => {
        #[inline]
        fn kvm_get_memory_alias(
            &self,
            vm: BorrowedFd<'_>,
            alias: &mut kvm_memory_alias,
        ) -> Result<()> {
            self.$field.kvm_get_memory_alias(vm, alias)
        }
    };
    (@kvm_run $field:ident) => {
        #[inline]
        fn kvm_run<'r>(&self, vcpu: BorrowedFd<'_>, run: &'r mut RunMapping) -> Result<Exit<'r>> {
            self.$field.kvm_run(vcpu, run)
        }
    };
    (@kvm_get_regs $field:ident) => {
        delegate! { @get kvm_get_regs, kvm_regs, $field }
    };
    (@kvm_set_regs $field:ident) => {
        delegate! { @set kvm_set_regs, kvm_regs, $field }
    };
    (@kvm_get_sregs $field:ident) => {
        delegate! { @get kvm_get_sregs, kvm_sregs, $field }
    };
    (@kvm_set_sregs $field:ident) => {
        delegate! { @set kvm_set_sregs, kvm_sregs, $field }
    };
    (@kvm_translate $field:ident) => {
        #[inline]
        fn kvm_translate(
            &self,
            vcpu: BorrowedFd<'_>,
            linear_address: u64,
            physical_address: &mut u64,
            valid: &mut u8,
            writeable: &mut u8,
            usermode: &mut u8,
        ) -> Result<()> {
            self.$field.kvm_translate(
                vcpu,
                linear_address,
                physical_address,
                valid,
                writeable,
                usermode,
            )
        }
    };
    (@kvm_interrupt $field:ident) => {
        #[inline]
        fn kvm_interrupt(&self, vcpu: BorrowedFd<'_>, irq: u32) -> Result<()> {
            self.$field.kvm_interrupt(vcpu, irq)
        }
    };
    (@kvm_debug_guest $field:ident) => {
        delegate! { @set kvm_debug_guest, kvm_guest_debug, $field }
    };
    (@kvm_get_msrs $field:ident) => {
        #[inline]
        fn kvm_get_msrs(&self, vcpu: BorrowedFd<'_>, msrs: &mut Msrs) -> Result<usize> {
            self.$field.kvm_get_msrs(vcpu, msrs)
        }
    };
    (@kvm_set_msrs $field:ident) => {
        #[inline]
        fn kvm_set_msrs(&self, vcpu: BorrowedFd<'_>, msrs: &Msrs) -> Result<usize> {
            self.$field.kvm_set_msrs(vcpu, msrs)
        }
    };
    (@kvm_set_cpuid $field:ident) => {
        delegate! { @set kvm_set_cpuid, CpuId, $field }
    };
    (@kvm_set_signal_mask $field:ident) => {
        #[inline]
        fn kvm_set_signal_mask(&self, vcpu: BorrowedFd<'_>, mask: Option<&SigSet>) -> Result<()> {
            self.$field.kvm_set_signal_mask(vcpu, mask)
        }
    };
    (@kvm_get_fpu $field:ident) => {
        delegate! { @get kvm_get_fpu, kvm_fpu, $field }
    };
    (@kvm_set_fpu $field:ident) => {
        delegate! { @set kvm_set_fpu, kvm_fpu, $field }
    };
    (@kvm_check_extension $field:ident) => {
        #[inline]
        fn kvm_check_extension(&self, fd: BorrowedFd<'_>, extension: u32) -> Result<i32> {
            self.$field.kvm_check_extension(fd, extension)
        }
    };
    (@kvm_set_user_memory_region $field:ident) => {
        #[inline]
        unsafe fn kvm_set_user_memory_region(
            &self,
            vm: BorrowedFd<'_>,
            slot: u32,
            flags: u32,
            guest_phys_addr: u64,
            size: u64,
            userspace_addr: u64,
        ) -> Result<()> {
            // SAFETY: the caller answers for the same.
            unsafe {
                self.$field.kvm_set_user_memory_region(
                    vm,
                    slot,
                    flags,
                    guest_phys_addr,
                    size,
                    userspace_addr,
                )
            }
        }
    };
    (@kvm_set_memory_alias $field:ident) => {
        #[inline]
        fn kvm_set_memory_alias(
            &self,
            vm: BorrowedFd<'_>,
            alias: &kvm_memory_alias,
        ) -> Result<()> {
            self.$field.kvm_set_memory_alias(vm, alias)
        }
    };
    (@kvm_get_state $field:ident) => {
        #[inline]
        fn kvm_get_state(
            &self,
            vcpu: BorrowedFd<'_>,
            state: &mut GetState<'_>,
        ) -> Result<usize> {
            self.$field.kvm_get_state(vcpu, state)
        }
    };
    (@kvm_set_state $field:ident) => {
        #[inline]
        fn kvm_set_state(&self, vcpu: BorrowedFd<'_>, state: &SetState<'_>) -> Result<usize> {
            self.$field.kvm_set_state(vcpu, state)
        }
    };
    (@kvm_map_range $field:ident) => {
        #[inline]
        unsafe fn kvm_map_range(
            &self,
            vm: BorrowedFd<'_>,
            guest_phys_addr: u64,
            size: u64,
            userspace_addr: u64,
            flags: u32,
        ) -> Result<()> {
            // SAFETY: the caller answers for the same.
            unsafe {
                self.$field
                    .kvm_map_range(vm, guest_phys_addr, size, userspace_addr, flags)
            }
        }
    };
    (@kvm_unmap_range $field:ident) => {
        #[inline]
        fn kvm_unmap_range(
            &self,
            vm: BorrowedFd<'_>,
            guest_phys_addr: u64,
            size: u64,
        ) -> Result<()> {
            self.$field.kvm_unmap_range(vm, guest_phys_addr, size)
        }
    };
    (@kvm_get_dirty_range $field:ident) => {
        #[inline]
        unsafe fn kvm_get_dirty_range(
            &self,
            vm: BorrowedFd<'_>,
            guest_phys_addr: u64,
            size: u64,
            bitmap: &mut [u64],
        ) -> Result<()> {
            // SAFETY: the caller answers for the same.
            unsafe {
                self.$field
                    .kvm_get_dirty_range(vm, guest_phys_addr, size, bitmap)
            }
        }
    };
    (@kvm_clear_dirty_range $field:ident) => {
        #[inline]
        unsafe fn kvm_clear_dirty_range(
            &self,
            vm: BorrowedFd<'_>,
            guest_phys_addr: u64,
            size: u64,
            bitmap: &[u64],
        ) -> Result<()> {
            // SAFETY: the caller answers for the same.
            unsafe {
                self.$field
                    .kvm_clear_dirty_range(vm, guest_phys_addr, size, bitmap)
            }
        }
    };
    (@kvm_map_memory $field:ident) => {
        fn kvm_map_memory(
            &self,
            vm: BorrowedFd<'_>,
            guest_phys_addr: u64,
            size: usize,
        ) -> Result<GuestMemory> {
            self.$field.kvm_map_memory(vm, guest_phys_addr, size)
        }
    };
    // The calls that pass one structure.
    (@get $name:ident, $structure:ident, $field:ident) => {
        #[inline]
        fn $name(&self, vcpu: BorrowedFd<'_>, value: &mut $structure) -> Result<()> {
            self.$field.$name(vcpu, value)
        }
    };
    (@set $name:ident, $structure:ident, $field:ident) => {
        #[inline]
        fn $name(&self, vcpu: BorrowedFd<'_>, value: &$structure) -> Result<()> {
            self.$field.$name(vcpu, value)
        }
    };
}

pub(crate) use delegate;
