#!/usr/bin/env bash
set -euo pipefail

# services of the project
gcloud services enable artifactregistry.googleapis.com certificatemanager.googleapis.com compute.googleapis.com container.googleapis.com gkehub.googleapis.com multiclusteringress.googleapis.com multiclusterservicediscovery.googleapis.com trafficdirector.googleapis.com --project my-project

# registry in asia-northeast1
gcloud artifacts repositories describe inference-system --location asia-northeast1 --project my-project >/dev/null 2>&1 ||
    gcloud artifacts repositories create inference-system --location asia-northeast1 --project my-project --repository-format docker

# right of the nodes to pull images in asia-northeast1
gcloud artifacts repositories add-iam-policy-binding inference-system --location asia-northeast1 --project my-project --role roles/artifactregistry.reader --member "serviceAccount:$(gcloud projects describe my-project '--format=value(projectNumber)' | paste -sd,)-compute@developer.gserviceaccount.com"

# cluster inference-asia-northeast1
gcloud container clusters describe inference-asia-northeast1 --location asia-northeast1 --project my-project >/dev/null 2>&1 ||
    gcloud container clusters create inference-asia-northeast1 --location asia-northeast1 --project my-project --release-channel regular --num-nodes 1 --machine-type e2-standard-4 --enable-ip-alias --enable-dataplane-v2 --workload-pool my-project.svc.id.goog --gateway-api standard

# nodes gpu of inference-asia-northeast1
gcloud container node-pools describe gpu --cluster inference-asia-northeast1 --location asia-northeast1 --project my-project >/dev/null 2>&1 ||
    gcloud container node-pools create gpu --cluster inference-asia-northeast1 --location asia-northeast1 --project my-project --node-locations "$(gcloud compute accelerator-types list --project my-project --filter 'name=nvidia-tesla-t4 AND zone~/asia-northeast1-' '--format=value(zone.basename())' | paste -sd,)" --machine-type n1-standard-4 --accelerator type=nvidia-tesla-t4,count=1,gpu-driver-version=default --enable-autoscaling --num-nodes 0 --total-min-nodes 2 --total-max-nodes 2 --location-policy ANY --workload-metadata GKE_METADATA

# inference-asia-northeast1 in the fleet
gcloud container fleet memberships describe inference-asia-northeast1 --location asia-northeast1 --project my-project >/dev/null 2>&1 ||
    gcloud container fleet memberships register inference-asia-northeast1 --location asia-northeast1 --project my-project --gke-cluster asia-northeast1/inference-asia-northeast1 --enable-workload-identity

# credentials of inference-asia-northeast1
kubectl config get-contexts gke_my-project_asia-northeast1_inference-asia-northeast1 >/dev/null 2>&1 ||
    gcloud container clusters get-credentials inference-asia-northeast1 --location asia-northeast1 --project my-project

# context asia-northeast1
kubectl config get-contexts asia-northeast1 >/dev/null 2>&1 ||
    kubectl config set-context asia-northeast1 --cluster gke_my-project_asia-northeast1_inference-asia-northeast1 --user gke_my-project_asia-northeast1_inference-asia-northeast1 --namespace inference

# registry in europe-west1
gcloud artifacts repositories describe inference-system --location europe-west1 --project my-project >/dev/null 2>&1 ||
    gcloud artifacts repositories create inference-system --location europe-west1 --project my-project --repository-format docker

# right of the nodes to pull images in europe-west1
gcloud artifacts repositories add-iam-policy-binding inference-system --location europe-west1 --project my-project --role roles/artifactregistry.reader --member "serviceAccount:$(gcloud projects describe my-project '--format=value(projectNumber)' | paste -sd,)-compute@developer.gserviceaccount.com"

# cluster inference-europe-west1
gcloud container clusters describe inference-europe-west1 --location europe-west1 --project my-project >/dev/null 2>&1 ||
    gcloud container clusters create inference-europe-west1 --location europe-west1 --project my-project --release-channel regular --num-nodes 1 --machine-type e2-standard-4 --enable-ip-alias --enable-dataplane-v2 --workload-pool my-project.svc.id.goog --gateway-api standard

# nodes gpu of inference-europe-west1
gcloud container node-pools describe gpu --cluster inference-europe-west1 --location europe-west1 --project my-project >/dev/null 2>&1 ||
    gcloud container node-pools create gpu --cluster inference-europe-west1 --location europe-west1 --project my-project --node-locations "$(gcloud compute accelerator-types list --project my-project --filter 'name=nvidia-tesla-t4 AND zone~/europe-west1-' '--format=value(zone.basename())' | paste -sd,)" --machine-type n1-standard-4 --accelerator type=nvidia-tesla-t4,count=1,gpu-driver-version=default --enable-autoscaling --num-nodes 0 --total-min-nodes 3 --total-max-nodes 3 --location-policy ANY --workload-metadata GKE_METADATA

# inference-europe-west1 in the fleet
gcloud container fleet memberships describe inference-europe-west1 --location europe-west1 --project my-project >/dev/null 2>&1 ||
    gcloud container fleet memberships register inference-europe-west1 --location europe-west1 --project my-project --gke-cluster europe-west1/inference-europe-west1 --enable-workload-identity

# credentials of inference-europe-west1
kubectl config get-contexts gke_my-project_europe-west1_inference-europe-west1 >/dev/null 2>&1 ||
    gcloud container clusters get-credentials inference-europe-west1 --location europe-west1 --project my-project

# context europe-west1
kubectl config get-contexts europe-west1 >/dev/null 2>&1 ||
    kubectl config set-context europe-west1 --cluster gke_my-project_europe-west1_inference-europe-west1 --user gke_my-project_europe-west1_inference-europe-west1 --namespace inference

# registry in us-central1
gcloud artifacts repositories describe inference-system --location us-central1 --project my-project >/dev/null 2>&1 ||
    gcloud artifacts repositories create inference-system --location us-central1 --project my-project --repository-format docker

# right of the nodes to pull images in us-central1
gcloud artifacts repositories add-iam-policy-binding inference-system --location us-central1 --project my-project --role roles/artifactregistry.reader --member "serviceAccount:$(gcloud projects describe my-project '--format=value(projectNumber)' | paste -sd,)-compute@developer.gserviceaccount.com"

# cluster inference-us-central1
gcloud container clusters describe inference-us-central1 --location us-central1 --project my-project >/dev/null 2>&1 ||
    gcloud container clusters create inference-us-central1 --location us-central1 --project my-project --release-channel regular --num-nodes 1 --machine-type e2-standard-4 --enable-ip-alias --enable-dataplane-v2 --workload-pool my-project.svc.id.goog --gateway-api standard

# nodes gpu of inference-us-central1
gcloud container node-pools describe gpu --cluster inference-us-central1 --location us-central1 --project my-project >/dev/null 2>&1 ||
    gcloud container node-pools create gpu --cluster inference-us-central1 --location us-central1 --project my-project --node-locations "$(gcloud compute accelerator-types list --project my-project --filter 'name=nvidia-tesla-t4 AND zone~/us-central1-' '--format=value(zone.basename())' | paste -sd,)" --machine-type n1-standard-4 --accelerator type=nvidia-tesla-t4,count=1,gpu-driver-version=default --enable-autoscaling --num-nodes 0 --total-min-nodes 4 --total-max-nodes 4 --location-policy ANY --workload-metadata GKE_METADATA

# inference-us-central1 in the fleet
gcloud container fleet memberships describe inference-us-central1 --location us-central1 --project my-project >/dev/null 2>&1 ||
    gcloud container fleet memberships register inference-us-central1 --location us-central1 --project my-project --gke-cluster us-central1/inference-us-central1 --enable-workload-identity

# credentials of inference-us-central1
kubectl config get-contexts gke_my-project_us-central1_inference-us-central1 >/dev/null 2>&1 ||
    gcloud container clusters get-credentials inference-us-central1 --location us-central1 --project my-project

# context us-central1
kubectl config get-contexts us-central1 >/dev/null 2>&1 ||
    kubectl config set-context us-central1 --cluster gke_my-project_us-central1_inference-us-central1 --user gke_my-project_us-central1_inference-us-central1 --namespace inference

# multi-cluster Services
gcloud container fleet multi-cluster-services describe --project my-project >/dev/null 2>&1 ||
    gcloud container fleet multi-cluster-services enable --project my-project

# right of multi-cluster Services to see the network
gcloud projects add-iam-policy-binding my-project --condition None --role roles/compute.networkViewer --member 'serviceAccount:my-project.svc.id.goog[gke-mcs/gke-mcs-importer]'

# multi-cluster Gateway
gcloud container fleet ingress describe --project my-project >/dev/null 2>&1 ||
    gcloud container fleet ingress enable --config-membership projects/my-project/locations/us-central1/memberships/inference-us-central1 --project my-project

# right of the Gateway's controller to the clusters
gcloud projects add-iam-policy-binding my-project --condition None --role roles/container.admin --member "serviceAccount:service-$(gcloud projects describe my-project '--format=value(projectNumber)' | paste -sd,)@gcp-sa-multiclusteringress.iam.gserviceaccount.com"

# firewall rule for the load balancer
gcloud compute firewall-rules describe inference-load-balancers --project my-project >/dev/null 2>&1 ||
    gcloud compute firewall-rules create inference-load-balancers --project my-project --direction INGRESS --source-ranges 130.211.0.0/22,35.191.0.0/16 --allow tcp:8000,tcp:8001,tcp:8003

# address inference
gcloud compute addresses describe inference --global --project my-project >/dev/null 2>&1 ||
    gcloud compute addresses create inference --global --project my-project --ip-version IPV4

# certificate manager's maps inference
gcloud certificate-manager maps describe inference --project my-project >/dev/null 2>&1 ||
    gcloud certificate-manager maps create inference --project my-project

# certificate manager's dns-authorizations inference-http
gcloud certificate-manager dns-authorizations describe inference-http --project my-project >/dev/null 2>&1 ||
    gcloud certificate-manager dns-authorizations create inference-http --domain inference.example.com --project my-project

# certificate manager's certificates inference-http
gcloud certificate-manager certificates describe inference-http --project my-project >/dev/null 2>&1 ||
    gcloud certificate-manager certificates create inference-http --domains inference.example.com --dns-authorizations inference-http --project my-project

# certificate manager's entries inference-http
gcloud certificate-manager maps entries describe inference-http --map inference --project my-project >/dev/null 2>&1 ||
    gcloud certificate-manager maps entries create inference-http --map inference --certificates inference-http --hostname inference.example.com --project my-project

# certificate manager's dns-authorizations inference-grpc
gcloud certificate-manager dns-authorizations describe inference-grpc --project my-project >/dev/null 2>&1 ||
    gcloud certificate-manager dns-authorizations create inference-grpc --domain grpc.inference.example.com --project my-project

# certificate manager's certificates inference-grpc
gcloud certificate-manager certificates describe inference-grpc --project my-project >/dev/null 2>&1 ||
    gcloud certificate-manager certificates create inference-grpc --domains grpc.inference.example.com --dns-authorizations inference-grpc --project my-project

# certificate manager's entries inference-grpc
gcloud certificate-manager maps entries describe inference-grpc --map inference --project my-project >/dev/null 2>&1 ||
    gcloud certificate-manager maps entries create inference-grpc --map inference --certificates inference-grpc --hostname grpc.inference.example.com --project my-project
