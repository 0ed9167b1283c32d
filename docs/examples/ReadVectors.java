import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.StringJoiner;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Prints the version of a store and the stable vectors of ids: java ReadVectors.java STORE items|users ID ...
 *
 * <p>Nothing but the JDK (11 or later). Java cannot take the lock that keeps a version from being pruned, flock(2) on a
 * directory, so this opens both files of one version at once and starts again when the version is gone by then. Files
 * that are open stay readable, whole and unchanged, after their directory was deleted.
 */
public final class ReadVectors {

    /** An open .npy file: where its rows begin, how many there are, and how many bytes each has. */
    private static final class Rows {
        private static final Pattern HEADER = Pattern.compile(
                "'descr': '([<|])([ifS])(\\d+)', 'fortran_order': False, 'shape': \\((\\d+), ?(\\d*)\\)");
        final FileChannel file;
        final char kind;
        final long start;
        final long count;
        final int bytes;

        Rows(Path path) throws IOException {
            file = FileChannel.open(path);
            ByteBuffer head = read(0, 10);
            start = 10 + Short.toUnsignedInt(head.getShort(8));
            Matcher header = HEADER.matcher(StandardCharsets.ISO_8859_1.decode(read(10, (int) start - 10)));
            if (!header.find()) {
                throw new IOException(path + ": not an array as embsync writes it");
            }
            kind = header.group(2).charAt(0);
            count = Long.parseLong(header.group(4));
            String columns = header.group(5);
            bytes = Integer.parseInt(header.group(3)) * (columns.isEmpty() ? 1 : Integer.parseInt(columns));
        }

        ByteBuffer row(long number) throws IOException {
            return read(start + number * bytes, bytes);
        }

        private ByteBuffer read(long from, int length) throws IOException {
            ByteBuffer buffer = ByteBuffer.allocate(length).order(ByteOrder.LITTLE_ENDIAN);
            while (buffer.hasRemaining() && file.read(buffer, from + buffer.position()) >= 0) { }
            return buffer.flip();
        }
    }

    private final String version;
    private final Rows ids;
    private final Rows vectors;

    private ReadVectors(Path folder, String side) throws IOException {
        version = folder.getFileName().toString();
        ids = new Rows(folder.resolve(side).resolve("ids.npy"));
        vectors = new Rows(folder.resolve(side).resolve("vectors.npy"));
    }

    /** Reads the link once, so that both files are of one version, and again only when that version is gone. */
    static ReadVectors open(Path store, String side) throws IOException {
        Path before = null;
        while (true) {
            Path folder = store.resolve(Files.readSymbolicLink(store.resolve("current")));
            try {
                return new ReadVectors(folder, side);
            } catch (NoSuchFileException gone) {
                if (folder.equals(before)) {
                    throw gone;  // still the current version: the file is truly missing
                }
                before = folder;
            }
        }
    }

    /** Returns the vector of an id, or null: ids ascend, numbers as numbers and text by its UTF-8 bytes. */
    float[] find(String id) throws IOException {
        long low = 0;
        long high = ids.count;
        while (low < high) {
            long middle = (low + high) >>> 1;
            int order = compare(ids.row(middle), id);
            if (order == 0) {
                float[] vector = new float[vectors.bytes / Float.BYTES];
                vectors.row(middle).asFloatBuffer().get(vector);
                return vector;
            }
            if (order < 0) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        return null;
    }

    private int compare(ByteBuffer stored, String id) {
        if (ids.kind == 'i') {
            return Long.compare(stored.getLong(0), Long.parseLong(id));
        }
        int length = ids.bytes;
        while (length > 0 && stored.get(length - 1) == 0) {
            length--;  // shorter ids are filled up with NUL
        }
        return Arrays.compareUnsigned(Arrays.copyOf(stored.array(), length), id.getBytes(StandardCharsets.UTF_8));
    }

    public static void main(String[] arguments) throws IOException {
        ReadVectors reader = open(Path.of(arguments[0]), arguments[1]);
        System.out.println("version " + reader.version);
        for (String id : Arrays.copyOfRange(arguments, 2, arguments.length)) {
            float[] vector = reader.find(id);
            StringJoiner text = new StringJoiner(" ");
            for (int place = 0; vector != null && place < vector.length; place++) {
                text.add(Float.toString(vector[place]));
            }
            System.out.println(id + ": " + (vector == null ? "unknown" : text));
        }
    }
}
