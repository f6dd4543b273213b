// Kubernetes as one program, which is that one of its programs by whose name it is called: they are mostly the same
// packages, and linking them once is quicker than linking them six times.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	_ "time/tzdata"

	"github.com/spf13/cobra"
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	var program *cobra.Command
	switch name := filepath.Base(os.Args[0]); name {
	case "kube-apiserver":
		program = apiserver.NewAPIServerCommand()
	case "kube-controller-manager":
		program = controllermanager.NewControllerManagerCommand()
	case "kube-proxy":
		program = proxy.NewProxyCommand()
	case "kube-scheduler":
		program = scheduler.NewSchedulerCommand()
	case "kubelet":
		program = kubelet.NewKubeletCommand(context.Background())
	case "kubectl":
		// Its errors are sentences, not usage.
		util.CheckErr(cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()))
		return
	default:
		fmt.Fprintf(os.Stderr, "there is no program of Kubernetes named %s here\n", name)
		os.Exit(2)
	}
	os.Exit(cli.Run(program))
}
