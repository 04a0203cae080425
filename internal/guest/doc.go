// Package guest runs a static program on another kernel: a Debian cloud kernel,
// fetched from the Debian mirror, in qemu. So what depends on the kernel (the BPF
// verifier above all) is tested on kernels that the machine does not run.
//
//	image, err := guest.Kernel(ctx, "6.1")
//	code, err := guest.Run(ctx, guest.Options{Kernel: image, Binary: "x.test", Stdout: os.Stdout})
//
// The guest's processor is emulated in software (TCG), since the machines at hand
// have no /dev/kvm: times measured in it mean nothing, instructions do
// (Options.Icount).
//
// It has no disk and no network. All its files are in an archive that the kernel
// unpacks into memory (Options.Files); process 1 is the program in init/. There are
// two serial ports: what the program writes comes out of the first, byte for byte,
// and what the kernel and process 1 have to say out of the second.
//
// Neither root nor an installation on the host is needed. The programs that are:
// qemu-system-x86_64, xz, go, and, to fetch a kernel, apt-get and dpkg-deb.
package guest
