# Puts a model from SOURCE_DIRECTORY into Triton's repository, or names the file that is wrong and exits 1.
# Needs a POSIX shell, sha256sum, grep, sed and sort: model images can be as small as busybox.
# In: SOURCE_DIRECTORY, SOURCE (how a person calls it), MODEL_NAME, MODEL_VERSION, MODEL_FILE, VERSION_POLICY
# (specific, latest, all), VERSION_COUNT (of latest), WARMUP_FILE (empty: none is needed); MODEL_NAME.pbtxt lies
# beside this file.
set -eu

fail() {
  echo "deliver-model: $1" >&2
  exit 1
}

hint() {
  [ "$1" != "$WARMUP_FILE" ] || echo "; model.warmup.data random needs none"
}

# The versions that the source holds, in folders named by their number, the highest last.
versions() {
  for folder in "$SOURCE_DIRECTORY"/*/; do
    folder=${folder%/}
    echo "${folder##*/}"
  done | grep '^[1-9][0-9]*$' | sort -n
}

# Puts the files in $1 in place as version $2.
deliver() {
  [ -s "$1/SHA256SUMS" ] || fail "$SOURCE has no SHA256SUMS in $1"
  for file in "$MODEL_FILE" $WARMUP_FILE; do
    [ -e "$1/$file" ] || fail "$SOURCE has no $file in $1$(hint "$file")"
    [ -s "$1/$file" ] || fail "$file in $1 of $SOURCE is empty"
    grep -q "[ *]$file\$" "$1/SHA256SUMS" || fail "SHA256SUMS in $1 of $SOURCE does not list $file"
  done

  target=$model/$2
  mkdir -p "$target"
  cp -RL "$1/." "$target/"

  # The copy is checked, not the source, so that a full disk or a cut download shows as well.
  if ! report=$(cd "$target" && sha256sum -c SHA256SUMS 2>/dev/null); then
    fail "corrupt in $1 of $SOURCE: $(echo "$report" | sed -n 's/: FAILED.*//p' | tr '\n' ' ' | sed 's/ $//')"
  fi
  [ -z "$WARMUP_FILE" ] || cp -R "$target/${WARMUP_FILE%/*}" "$model/"
}

[ -d "$SOURCE_DIRECTORY" ] || fail "$SOURCE has no folder $SOURCE_DIRECTORY"

# A container that starts again finds what the one before it left.
model=${REPOSITORY:-/models}/${MODEL_NAME:?}
rm -rf "$model"
mkdir -p "$model"

there=$(versions)
if [ -z "$there" ]; then
  chosen=$MODEL_VERSION
  deliver "$SOURCE_DIRECTORY" "$MODEL_VERSION"
else
  case $VERSION_POLICY in
    specific) chosen=$(echo "$there" | grep -x "$MODEL_VERSION") ||
      fail "$SOURCE has no version $MODEL_VERSION in $SOURCE_DIRECTORY, only $(echo $there)" ;;
    latest) chosen=$(echo "$there" | tail -n "$VERSION_COUNT") ;;
    all) chosen=$there ;;
  esac
  for version in $chosen; do
    deliver "$SOURCE_DIRECTORY/$version" "$version"
  done
fi

# Last: Triton looks at no folder without it.
cp "$(dirname "$0")/$MODEL_NAME.pbtxt" "$model/config.pbtxt"
echo "deliver-model: $MODEL_NAME version $(echo $chosen) from $SOURCE is in place"
