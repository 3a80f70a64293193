#!/bin/sh
# Makes the secrets of an installation, in the namespaces that `kubectl apply --kustomize deploy/installation` has made:
#   sh deploy/secrets.sh
# It asks for what only you know, makes the other keys itself, and leaves a secret alone that is there. To renew one, delete
# it and run this again. No value reaches a file, the process list or the shell's history. For a run without questions, set
# the variables below.
set -eu
trap '[ ! -t 0 ] || stty echo' EXIT

# ask VARIABLE QUESTION [hidden]: read a line into the variable, unless it is set.
ask() {
    eval "value=\${$1:-}"
    if [ -z "$value" ]; then
        printf '%s: ' "$2" >&2
        if [ -n "${3:-}" ] && [ -t 0 ]; then
            stty -echo
            IFS= read -r value
            stty echo
            echo >&2
        else
            IFS= read -r value
        fi
    fi
    eval "$1=\$value"
}

# missing NAMESPACE NAME
missing() {
    if kubectl get secret "$2" --namespace "$1" >/dev/null 2>&1; then
        echo "$1/$2 is there" >&2
        return 1
    fi
}

# create NAMESPACE NAME: make a secret from lines KEY=VALUE.
create() {
    kubectl create secret generic "$2" --namespace "$1" --from-env-file=/dev/stdin
}

# address USER PASSWORD: the password may hold any character.
address() {
    password=$(printf %s "$2" | od -An -v -tx1 | tr -d ' \n' | sed 's/../%&/g')
    printf 'postgresql+psycopg://%s:%s@%s/%s?sslmode=%s' "$1" "$password" "$DATABASE_HOST" "$1" "${SSLMODE:-require}"
}

ask DATABASE_HOST 'PostgreSQL, as host:port'
if missing mlflow mlflow-database; then
    ask MLFLOW_DATABASE_PASSWORD 'password of the database user mlflow' hidden
    printf 'uri=%s\n' "$(address mlflow "$MLFLOW_DATABASE_PASSWORD")" | create mlflow mlflow-database
fi
if missing airflow airflow-database; then
    ask AIRFLOW_DATABASE_PASSWORD 'password of the database user airflow' hidden
    printf 'connection=%s\n' "$(address airflow "$AIRFLOW_DATABASE_PASSWORD")" | create airflow airflow-database
fi
if missing airflow airflow-fernet-key; then
    printf 'fernet-key=%s\n' "$(openssl rand -base64 32 | tr '+/' '-_')" | create airflow airflow-fernet-key
fi
if missing airflow airflow-api-secret-key; then
    printf 'api-secret-key=%s\n' "$(openssl rand -hex 32)" | create airflow airflow-api-secret-key
fi
if missing airflow airflow-jwt-secret; then
    printf 'jwt-secret=%s\n' "$(openssl rand -hex 64)" | create airflow airflow-jwt-secret
fi
if missing airflow airflow-connections; then
    ask GIT_URL 'git repository of the DAGs, as https://…'
    ask GIT_TOKEN 'token that may read it' hidden
    printf '%s\n' "AIRFLOW_CONN_AWS_DEFAULT=${AIRFLOW_CONN_AWS_DEFAULT:-aws://}" \
        "AIRFLOW_CONN_GIT_DEFAULT={\"conn_type\": \"git\", \"host\": \"$GIT_URL\", \"login\": \"deploy\", \"password\": \"$GIT_TOKEN\"}" \
        | create airflow airflow-connections
fi
