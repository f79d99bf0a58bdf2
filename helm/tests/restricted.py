"""The restricted pod security standard: the rules about fields of a pod.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim",
    "projected", "secret",
}
SECCOMP = ("RuntimeDefault", "Localhost")


def violations(pod: dict) -> list[str]:
    """Violations of the standard in a pod spec."""
    found = [f"{field} is set" for field in ("hostNetwork", "hostPID", "hostIPC") if pod.get(field)]
    for volume in pod.get("volumes", []):
        found += [f"volume of type {kind}" for kind in set(volume) - {"name"} - VOLUMES]
    of_pod = pod.get("securityContext", {})
    if of_pod.get("runAsUser") == 0:
        found.append("the pod runs as root")
    if of_pod.get("sysctls"):
        found.append("sysctls")
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        found += [f"{container['name']}: {what}" for what in of_container(container, of_pod)]
    return found


def of_container(container: dict, of_pod: dict) -> list[str]:
    own = container.get("securityContext", {})
    capabilities = own.get("capabilities", {})
    either = of_pod | own
    seccomp = either.get("seccompProfile", {}).get("type")
    checks = {
        "privileged": own.get("privileged"),
        "may escalate privileges": own.get("allowPrivilegeEscalation") is not False,
        "does not drop all capabilities": "ALL" not in capabilities.get("drop", []),
        "adds capabilities": set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"},
        "may run as root": either.get("runAsNonRoot") is not True or either.get("runAsUser") == 0,
        "has no seccomp profile": seccomp not in SECCOMP,
        "has host ports": any(port.get("hostPort") for port in container.get("ports", [])),
    }
    return [what for what, holds in checks.items() if holds]
