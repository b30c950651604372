"""The Kubernetes objects: held to Kubernetes' own schemas, and to what the processes expect."""

import copy

import pytest

from deploy.shipped import COMMANDS, DEPLOY, IMAGE, PATHS, PROCESSES, grace, is_known

yaml = pytest.importorskip("yaml", reason="no PyYAML here")

OBJECTS = [
    one
    for file in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for one in yaml.safe_load_all(file.read_text())
]


def of_kind(kind):
    return {one["metadata"]["name"]: one for one in OBJECTS if one["kind"] == kind}


DEPLOYMENTS = of_kind("Deployment")
RUNNING = {**DEPLOYMENTS, **of_kind("Job")}
SETTINGS = of_kind("ConfigMap")["outbound"]["data"]


def pod(name):
    return RUNNING[name]["spec"]["template"]["spec"]


def container(name):
    (only,) = pod(name)["containers"]
    return only


def validate(one):
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="no kubernetes-validate here (a PyPI package)"
    )
    newest = kubernetes_validate.latest_version()
    kubernetes_validate.validate(one, newest, strict=True)


@pytest.mark.parametrize("one", OBJECTS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_an_object_is_what_kubernetes_allows(one):
    validate(one)


def test_a_misspelt_field_is_seen():
    wrong = copy.deepcopy(DEPLOYMENTS["outbound-web"])
    wrong["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 40
    validate(DEPLOYMENTS["outbound-web"])
    with pytest.raises(Exception, match="terminationGracePeriodSecond"):
        validate(wrong)


def test_there_is_a_deployment_for_each_process_and_a_job_that_migrates():
    assert set(DEPLOYMENTS) == {f"outbound-{process}" for process in PROCESSES}
    assert {container(name)["args"][0] for name in DEPLOYMENTS} == PROCESSES
    assert container("outbound-migrate")["args"] == ["migrate"]
    for name in RUNNING:
        assert container(name)["image"] == IMAGE, "name the new version here"
        (command,) = container(name)["args"]
        assert command in COMMANDS


def test_every_variable_is_one_that_somebody_reads():
    secret = of_kind("Secret")["outbound"]["stringData"]
    is_known(SETTINGS)
    is_known(secret)
    assert not {"DATABASE_URL", "TWILIO_AUTH_TOKEN"} & set(SETTINGS)
    for name in RUNNING:
        assert container(name)["envFrom"] == [
            {"configMapRef": {"name": "outbound"}},
            {"secretRef": {"name": "outbound"}},
        ]


@pytest.mark.parametrize("name", RUNNING)
def test_each_pod_is_given_the_time_that_it_takes_to_stop(name):
    (command,) = container(name)["args"]
    needed = grace(command, float(SETTINGS["OUTBOUND_SHUTDOWN_SECONDS"]))
    if hook := container(name).get("lifecycle"):
        program, seconds = hook["preStop"]["exec"]["command"]
        assert program == "sleep"
        needed += float(seconds)
    assert pod(name)["terminationGracePeriodSeconds"] >= needed


def test_webs_probes_ask_routes_that_exist_on_a_port_that_it_has():
    web = container("outbound-web")
    ports = {port["name"]: port["containerPort"] for port in web["ports"]}
    assert ports == {"http": 8000, "metrics": int(SETTINGS["OUTBOUND_METRICS_PORT"])}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = web[probe]["httpGet"]
        assert asked["path"] in PATHS
        assert asked["port"] == "http"
    assert web["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    # One that asks the database would restart every process when the database is away.
    assert web["livenessProbe"]["httpGet"]["path"] == "/health/live"


@pytest.mark.parametrize("name", RUNNING)
def test_a_pod_has_no_rights_and_writes_nowhere(name):
    assert pod(name)["automountServiceAccountToken"] is False
    context = pod(name)["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    # gunicorn's heartbeat files.
    assert {"name": "tmp", "mountPath": "/tmp"} in container(name)["volumeMounts"]


@pytest.mark.parametrize("name", ["outbound-worker", "outbound-reconciler"])
def test_what_holds_leases_is_not_throttled(name):
    assert "cpu" not in container(name)["resources"]["limits"]


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_new_version_comes_up_beside_the_old_one_and_one_pod_goes_at_a_time(name):
    spec = DEPLOYMENTS[name]["spec"]
    assert spec["replicas"] >= 2
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels
    budget = of_kind("PodDisruptionBudget")[name]["spec"]
    assert budget == {"maxUnavailable": 1, "selector": {"matchLabels": labels}}


def test_the_ingress_leads_to_the_service_and_the_service_to_web():
    ((ingress),) = of_kind("Ingress").values()
    (rule,) = ingress["spec"]["rules"]
    assert SETTINGS["PUBLIC_BASE_URL"] == f"https://{rule['host']}"
    assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"]]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    service = of_kind("Service")[backend["name"]]["spec"]
    (port,) = service["ports"]
    assert port["name"] == backend["port"]["name"]
    assert port["targetPort"] == "http"
    template = DEPLOYMENTS["outbound-web"]["spec"]["template"]
    assert service["selector"] == template["metadata"]["labels"]
    annotations = ingress["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/proxy-request-buffering"] == "on"
