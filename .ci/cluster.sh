#!/usr/bin/env bash
# The images, and with CLUSTER=1 `make test-cluster` on a real Kubernetes of this machine, where it has what they need.
# Otherwise one line says what is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools=$(readlink -f "${CLUSTER_TOOLS:-../shared/tools/cluster}") # scripts that start a cluster; docs/deploy.md names others
export KUBE_BIN=${KUBE_BIN:-$HOME/.cache/kube-1.20.2} PROJECT=$PWD

not_run() {
    echo "$1 not run: $2"
    exit 0
}
[ "$(id -u)" = 0 ] || not_run "test-images and test-cluster" "only root can build the images"
for program in podman runc debootstrap; do
    PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || not_run "test-images and test-cluster" "no $program"
done
podman info >/dev/null 2>&1 || not_run "test-images and test-cluster" "podman cannot work here: \`podman info\` says why"
make test-images

[ -n "${CLUSTER:-}" ] || not_run test-cluster "it is asked for with CLUSTER=1"
[ -x "$tools/up.sh" ] || not_run test-cluster "no scripts that start a cluster in $tools (CLUSTER_TOOLS)"
[ -x "$KUBE_BIN/kubelet" ] || not_run test-cluster "no Kubernetes server in $KUBE_BIN (KUBE_BIN)"
for program in containerd etcd dnsmasq iptables; do
    PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || not_run test-cluster "no $program"
done
K8S=$(mktemp -d /var/tmp/cluster.XXXXXX) # PostgreSQL's user must be able to enter it
export K8S PATH=$KUBE_BIN:$PATH KUBECONFIG=$K8S/cluster/pki/admin.conf
end() {
    "$tools/down.sh"
    rm -rf "$K8S"
}
trap end EXIT
podman image exists registry.example.org/pause:1 || "$tools/base-image.sh" >/dev/null
"$tools/certs.sh"
"$tools/big-node.sh" 8 40 "$tools/up.sh"
"$tools/services.sh"
"$tools/proxy.sh" >"$K8S/proxy.log" 2>&1 &
"$tools/load-images.sh" $(.venv/bin/python -m tests.support.images)
make test-cluster REGISTRY=localhost/ TAG=test
