// Upstream's test server and client with those of its commands that are called here. Each of the suite's probes starts
// it again, and with all commands most of a probe is that start.
package main

import (
	"os"

	"github.com/spf13/cobra"
	"k8s.io/kubernetes/test/images/agnhost/connect"
	"k8s.io/kubernetes/test/images/agnhost/netexec"
	"k8s.io/kubernetes/test/images/agnhost/pause"
	"k8s.io/kubernetes/test/images/agnhost/porter"
	servehostname "k8s.io/kubernetes/test/images/agnhost/serve-hostname"
)

func main() {
	if !kernelHasSCTP() {
		withRawSCTP()
	}
	root := &cobra.Command{Use: "agnhost"}
	root.AddCommand(
		connect.CmdConnect, netexec.CmdNetexec, pause.CmdPause, porter.CmdPorter, servehostname.CmdServeHostname,
	)
	if root.Execute() != nil {
		os.Exit(1)
	}
}
