// Package ulvs is the Linux Virtual Server in userspace: a layer-4 director
// that does what kernel IPVS does in direct routing, in pure Go.
//
// A Director takes packets from a dataplane.Plane, finds their virtual
// service, and sends them to the MAC address of the chosen real server. The
// verbs are ipvsadm's: AddService is -A, AddDestination is -a, and so on.
package ulvs
