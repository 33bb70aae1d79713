#!/usr/bin/env bash
set -euo pipefail

# release inference-system in asia-northeast1
! helm status inference-system --kube-context asia-northeast1 --namespace inference >/dev/null 2>&1 ||
    helm uninstall inference-system --kube-context asia-northeast1 --namespace inference --wait --timeout 10m

# release inference-system in europe-west1
! helm status inference-system --kube-context europe-west1 --namespace inference >/dev/null 2>&1 ||
    helm uninstall inference-system --kube-context europe-west1 --namespace inference --wait --timeout 10m

# release inference-system in us-central1
! helm status inference-system --kube-context us-central1 --namespace inference >/dev/null 2>&1 ||
    helm uninstall inference-system --kube-context us-central1 --namespace inference --wait --timeout 10m

# certificate manager's entries inference-grpc
! gcloud certificate-manager maps entries describe inference-grpc --map inference --project my-project >/dev/null 2>&1 ||
    gcloud certificate-manager maps entries delete inference-grpc --map inference --project my-project --quiet

# certificate manager's certificates inference-grpc
! gcloud certificate-manager certificates describe inference-grpc --project my-project >/dev/null 2>&1 ||
    gcloud certificate-manager certificates delete inference-grpc --project my-project --quiet

# certificate manager's dns-authorizations inference-grpc
! gcloud certificate-manager dns-authorizations describe inference-grpc --project my-project >/dev/null 2>&1 ||
    gcloud certificate-manager dns-authorizations delete inference-grpc --project my-project --quiet

# certificate manager's entries inference-http
! gcloud certificate-manager maps entries describe inference-http --map inference --project my-project >/dev/null 2>&1 ||
    gcloud certificate-manager maps entries delete inference-http --map inference --project my-project --quiet

# certificate manager's certificates inference-http
! gcloud certificate-manager certificates describe inference-http --project my-project >/dev/null 2>&1 ||
    gcloud certificate-manager certificates delete inference-http --project my-project --quiet

# certificate manager's dns-authorizations inference-http
! gcloud certificate-manager dns-authorizations describe inference-http --project my-project >/dev/null 2>&1 ||
    gcloud certificate-manager dns-authorizations delete inference-http --project my-project --quiet

# certificate manager's maps inference
! gcloud certificate-manager maps describe inference --project my-project >/dev/null 2>&1 ||
    gcloud certificate-manager maps delete inference --project my-project --quiet

# address inference
! gcloud compute addresses describe inference --global --project my-project >/dev/null 2>&1 ||
    gcloud compute addresses delete inference --global --project my-project --quiet

# firewall rule for the load balancer
! gcloud compute firewall-rules describe inference-load-balancers --project my-project >/dev/null 2>&1 ||
    gcloud compute firewall-rules delete inference-load-balancers --project my-project --quiet

# multi-cluster Gateway
! gcloud container fleet ingress describe --project my-project >/dev/null 2>&1 ||
    gcloud container fleet ingress disable --project my-project --quiet

# multi-cluster Services
! gcloud container fleet multi-cluster-services describe --project my-project >/dev/null 2>&1 ||
    gcloud container fleet multi-cluster-services disable --project my-project --quiet

# context us-central1
! kubectl config get-contexts us-central1 >/dev/null 2>&1 ||
    kubectl config delete-context us-central1

# inference-us-central1 in the fleet
! gcloud container fleet memberships describe inference-us-central1 --location us-central1 --project my-project >/dev/null 2>&1 ||
    gcloud container fleet memberships unregister inference-us-central1 --location us-central1 --project my-project --gke-cluster us-central1/inference-us-central1 --quiet

# cluster inference-us-central1
! gcloud container clusters describe inference-us-central1 --location us-central1 --project my-project >/dev/null 2>&1 ||
    gcloud container clusters delete inference-us-central1 --location us-central1 --project my-project --quiet

# registry in us-central1
! gcloud artifacts repositories describe inference-system --location us-central1 --project my-project >/dev/null 2>&1 ||
    gcloud artifacts repositories delete inference-system --location us-central1 --project my-project --quiet

# context europe-west1
! kubectl config get-contexts europe-west1 >/dev/null 2>&1 ||
    kubectl config delete-context europe-west1

# inference-europe-west1 in the fleet
! gcloud container fleet memberships describe inference-europe-west1 --location europe-west1 --project my-project >/dev/null 2>&1 ||
    gcloud container fleet memberships unregister inference-europe-west1 --location europe-west1 --project my-project --gke-cluster europe-west1/inference-europe-west1 --quiet

# cluster inference-europe-west1
! gcloud container clusters describe inference-europe-west1 --location europe-west1 --project my-project >/dev/null 2>&1 ||
    gcloud container clusters delete inference-europe-west1 --location europe-west1 --project my-project --quiet

# registry in europe-west1
! gcloud artifacts repositories describe inference-system --location europe-west1 --project my-project >/dev/null 2>&1 ||
    gcloud artifacts repositories delete inference-system --location europe-west1 --project my-project --quiet

# context asia-northeast1
! kubectl config get-contexts asia-northeast1 >/dev/null 2>&1 ||
    kubectl config delete-context asia-northeast1

# inference-asia-northeast1 in the fleet
! gcloud container fleet memberships describe inference-asia-northeast1 --location asia-northeast1 --project my-project >/dev/null 2>&1 ||
    gcloud container fleet memberships unregister inference-asia-northeast1 --location asia-northeast1 --project my-project --gke-cluster asia-northeast1/inference-asia-northeast1 --quiet

# cluster inference-asia-northeast1
! gcloud container clusters describe inference-asia-northeast1 --location asia-northeast1 --project my-project >/dev/null 2>&1 ||
    gcloud container clusters delete inference-asia-northeast1 --location asia-northeast1 --project my-project --quiet

# registry in asia-northeast1
! gcloud artifacts repositories describe inference-system --location asia-northeast1 --project my-project >/dev/null 2>&1 ||
    gcloud artifacts repositories delete inference-system --location asia-northeast1 --project my-project --quiet
