package dataplane

// Link is an interface that a plane was given by name, as it is now. It is the one that it was
// when it was taken, by its number, also under another name; when it is gone, the next one of
// the given name takes its place.
type Link struct {
	// Given is the name by which it was given, and Name the one that it has; "" where it
	// never was there.
	Given, Name string
	// Index is the kernel's number of it; 0: it is not there.
	Index int
	MAC   MAC
	MTU   int
	Up    bool
	// Master is the number of the bridge or bond that it belongs to, or 0.
	Master int
	// Ethernet says that it has an Ethernet address; Loopback is lo, which has none.
	Ethernet, Loopback bool
}

// There reports whether the interface exists.
func (l Link) There() bool { return l.Index != 0 }

// LinkUser uses interfaces that are there. Its methods are called one at a time, in the
// network namespace of the interfaces.
type LinkUser interface {
	// Take begins with an interface that was not there. What fails is tried again each
	// second.
	Take(Link) error
	// Lose ends with one that is gone, also if it was not taken.
	Lose(Link)
	// Change says that an interface is another one in some way than it was.
	Change(was, is Link)
}

// Following is a Plane that follows what becomes of its interfaces while it runs.
type Following interface {
	// Links are its interfaces as they are now, those that are not there too.
	Links() []Link
	// Follow tells a user of what becomes of them from now on, after the plane itself has
	// taken an interface and before it has lost it.
	Follow(LinkUser)
}
