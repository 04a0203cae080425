package guest

// Plan is what the guest's process 1 is to do. It lies in the guest at PlanFile, as
// JSON.
type Plan struct {
	Modules []Module // in the order in which to load them
	Binary  string   // what to run
	Args    []string // without the program's name
	Env     []string
	Dir     string // where to run it
}

// Module is a kernel module that is to be loaded.
type Module struct {
	Path       string // of its file
	Parameters string // "name=value …", or ""
}

// Where things are in the guest.
const (
	PlanFile = "/plan.json"
	WorkDir  = "/work"

	initFile   = "/init"
	binaryFile = "/program"
	moduleDir  = "/modules"
)

// The guest's process 1 ends with one of these on the second serial port: the status
// of the program, or why it could not be run.
const (
	ExitLine  = "ulvs-guest: exit "
	ErrorLine = "ulvs-guest: error: "
)
