# Puts a model from SOURCE_DIRECTORY into Triton's repository, or names the file that is wrong and exits 1.
# Needs a POSIX shell and sha256sum: model images can be as small as busybox.
# In: SOURCE_DIRECTORY, SOURCE (how a person calls it), MODEL_NAME, MODEL_VERSION, MODEL_FILE; config.pbtxt
# lies beside this file.
set -eu

fail() {
  echo "deliver-model: $1" >&2
  exit 1
}

repository=${REPOSITORY:-/models}
target=$repository/$MODEL_NAME/$MODEL_VERSION

[ -d "$SOURCE_DIRECTORY" ] || fail "$SOURCE has no folder $SOURCE_DIRECTORY"
[ -e "$SOURCE_DIRECTORY/$MODEL_FILE" ] || fail "$SOURCE has no $MODEL_FILE in $SOURCE_DIRECTORY"
[ -s "$SOURCE_DIRECTORY/$MODEL_FILE" ] || fail "$MODEL_FILE from $SOURCE is empty"
[ -s "$SOURCE_DIRECTORY/SHA256SUMS" ] || fail "$SOURCE has no SHA256SUMS in $SOURCE_DIRECTORY"
grep -q "[ *]$MODEL_FILE\$" "$SOURCE_DIRECTORY/SHA256SUMS" || fail "SHA256SUMS from $SOURCE does not list $MODEL_FILE"

# A container that starts again finds what the one before it left.
rm -rf "$repository/${MODEL_NAME:?}"
mkdir -p "$target"
cp -RL "$SOURCE_DIRECTORY/." "$target/"

# The copy is checked, not the source, so that a full disk or a cut download shows as well.
cd "$target"
if ! report=$(sha256sum -c SHA256SUMS 2>/dev/null); then
  fail "corrupt in $SOURCE: $(echo "$report" | sed -n 's/: FAILED.*//p' | tr '\n' ' ' | sed 's/ $//')"
fi

cp "$(dirname "$0")/config.pbtxt" "$repository/$MODEL_NAME/config.pbtxt"
echo "deliver-model: $MODEL_NAME version $MODEL_VERSION from $SOURCE is in place"
