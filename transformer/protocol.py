"""Words that one process says to another, each stated once: stages, options, environment variables, XCom keys.

The command line reads them, and the DAGs, the report and the commands of `make` write them. Imports nothing.
"""

# Stages of `python -m transformer`
FETCH_FILES = "fetch-files"
COMPUTE_STATISTICS_AND_EMBEDDINGS = "compute-statistics-and-embeddings"
TRAIN_MODEL = "train-model"
EVALUATE_MODEL = "evaluate-model"
REGISTER_MODEL = "register-model"
TUNE = "tune"
REPORT_STUDY = "report-study"

# Options of every stage
ENV = "--env"
SET = "--set"  # key=value; can be repeated
RUN_ID = "--run-id"
RESULT = "--result"
# Options of a training or a study
WARM_START_RUN_ID = "--warm-start-run-id"
RESUME = "--resume"
WORKER = "--worker"
# Options of an evaluation
FROM, TO = "--from", "--to"
LAST = "--last"
AGAIN = "--again"
IF_NEW = "--if-new"
ALLOW_TRAINING_DATES = "--allow-training-dates"
REQUEST = "--request"

# Environment variables
ENV_VARIABLE = "TRANSFORMER_ENV"
WARM_START_VARIABLE = "TRANSFORMER_WARM_START_RUN_ID"
RESUME_VARIABLE = "TRANSFORMER_RESUME_RUN"
TRACKING_VARIABLE = "TRANSFORMER_TRACKING_URI"  # address of MLflow, instead of that of include/config/base
IMAGE_VARIABLE = "TRANSFORMER_IMAGE"  # the image that a stage runs in
NODES_VARIABLE = "TRANSFORMER_NODES"  # number of machines that train one model together
COMMIT_VARIABLE = "TRANSFORMER_GIT_COMMIT"  # the commit that an image was built from

# XComs
RESULT_XCOM = "result"  # the JSON object that a local stage writes; nothing depends on it
ERROR_XCOM = "error"  # one line: why a task failed
SKIP_XCOM = "skipped"  # one line: why a task skipped itself

# Beginning of the line of a process that ended because another process of its training has ended or does not answer
LOST_PROCESS = "another process of the training has ended or does not answer"
